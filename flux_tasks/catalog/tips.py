"""What the documents advise on single tools: tips, limits, and remedies for a symptom or a refusal."""

from flux_tasks.catalog.rules import Tip

_NO_ACCESS = "the key is missing, or its project has no access to this tool"

DEBLUR = (
    Tip("take pictures in which the scene can still be recognised", "SEED-0"),
    Tip(
        "deblur before upscaling, outpainting and export",
        "SEED-0",
        not_after=("outpaint", "expand", "fill", "fill_finetuned", "upscale", "jpeg"),
    ),
    Tip("heavily damaged pictures keep some blur, or get details that are not exact", "SEED-0"),
    Tip("lettering and anatomy can come out wrong, above all of heavily blurred pictures", "SEED-0"),
    Tip("the whole picture is sharpened: there is no mask for a part of it", "SEED-0"),
    Tip("it may be too damaged: take the least compressed source there is", "SEED-0", "the result is still blurred"),
    Tip("take a cleaner source, or deblur before other steps", "SEED-0", "the result has artifacts"),
    Tip(_NO_ACCESS, "SEED-0", "403"),
    Tip("check that the picture is whole, that its address can be reached, and its 4 MP at most", "SEED-0", "422"),
)
ERASE = (
    Tip("the mask has to cover the whole object, its shadow and its reflection", "SEED-1"),
    Tip("begin with dilate_pixels 10 for masks of SAM; take 15 to 20 for hair, fur and smoke", "SEED-1"),
    Tip("results are best at about 1 MP and ratios from 1:2 to 2:1", "SEED-1"),
    Tip("raise dilate_pixels", "SEED-1", "an edge or a halo is left"),
    Tip("see whether the mask covers shadow and reflection, too", "SEED-1", "the background looks wrong"),
    Tip(_NO_ACCESS, "SEED-1", "403"),
    Tip("check that the picture is whole, and that the mask has exactly its size", "SEED-1", "422"),
)
OUTPAINT = (
    Tip("mode fast is for landscapes, backgrounds, textures and products; high for fine detail and people", "DOCS-OUT"),
    Tip("the picture counts most: the prompt may be ignored", "DOCS-OUT"),
)
FILL = (Tip("check that the mask has exactly the picture's size", "SEED-4", "422"),)
KONTEXT = (Tip("say what to change and what to keep", "SEED-3"),)
FLUX3 = (
    Tip("with several pictures, call them image 1, image 2 and so on in the prompt", "F3-COMFY"),
    Tip("say in the prompt, too, what boxes add and remove; call them <box_1> or by their id", "F3-BOXES"),
    Tip("a box is the size of the thing, no mask: it may reach a little beyond", "F3-BOXES"),
    Tip("write a keep box for each thing that has to stay; what no box names usually stays, too", "F3-BOXES"),
    Tip("a new box of about 40 × 25 px often stays empty: make it larger", "F3-BOXES"),
    Tip("lettering: a box for each line, with the words in quotes in its text", "F3-BOXES"),
    Tip("the result can be fetched for about an hour", "F3-DOCS"),
    Tip("look for unknown fields, an empty prompt, and a side below 256 px", "F3-DOCS", "422"),
)
LORA = (
    Tip("take the tool of the base model and precision that the finetune was uploaded for", "LORA"),
    Tip("begin with finetune_strength 1; lower it to 0.7–0.9 if the finetune outweighs the prompt", "LORA"),
    Tip("write the finetune's trigger phrase into the prompt, if it has one", "LORA"),
)
