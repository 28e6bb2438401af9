"""Previews of what only a model can do: pictures that show the request, with a label that FLUX did not make them.

The result depends on pictures, prompt, tool and seed only; the font is the one in Pillow.
"""

import colorsys
import hashlib
import random
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK: Colour = (24, 22, 20)
PAPER: Colour = (250, 248, 243)
SIGNAL: Colour = (255, 204, 0)


def label(tool: str) -> str:
    """Return the words on the label."""
    return f"LOCAL PREVIEW · {tool} · not made by FLUX"


def compose(
    size: tuple[int, int], pictures: Sequence[Image.Image], *, tool: str, prompt: str = "", seed: int = 0
) -> Image.Image:
    """Return an RGB picture of ``size`` (width, height in pixels), labelled as a preview of ``tool``.

    The first picture fills it, further ones are small prints in it; without any, prompt and seed choose its colours.
    """
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode("utf-8", "replace")).digest()
    chance = random.Random(digest)  # noqa: S311 - for colours
    colours = _palette(chance)
    if pictures:
        canvas = _tinted(ImageOps.fit(flattened(pictures[0]), size, Image.Resampling.LANCZOS), colours)
    else:
        canvas = _aurora(size, colours, chance)
    unit = max(4.0, min(size[0], size[1] * 1.6, 2400.0) / 100)
    banner = _banner(canvas, prompt, unit)
    _prints(canvas, pictures[1:], unit, canvas.height - banner)
    _sign(canvas, label(tool), unit)
    return canvas


def mark_box(canvas: Image.Image, box: tuple[int, int, int, int], words: str, *, is_empty: bool = False) -> None:
    """Draw a frame around ``box`` (left, top, right, bottom in pixels) with a label in it.

    Args:
        is_empty: there is nothing in the box that could be shown: fill it.
    """
    left, top, right, bottom = box
    unit = max(2.0, min(right - left, bottom - top) / 40)
    draw = ImageDraw.Draw(canvas)
    if is_empty:
        veil = Image.new("RGB", (right - left, bottom - top), PAPER)
        canvas.paste(Image.blend(canvas.crop(box), veil, 0.75), (left, top))
    draw.rectangle((left, top, right - 1, bottom - 1), outline=SIGNAL, width=max(1, round(unit * 0.6)))
    font = _font(max(9.0, min(unit * 5, 40.0)))
    lines = _wrapped(_readable(" ".join(words.split())), font, max(20.0, right - left - 4 * unit), 4)
    text = "\n".join(lines)
    _, _, width, height = draw.multiline_textbbox((0, 0), text, font=font)
    draw.rectangle((left, top, left + width + 2 * unit, top + height + 2 * unit), fill=SIGNAL)
    draw.multiline_text((left + unit, top + unit / 2), text, font=font, fill=INK)


def flattened(image: Image.Image) -> Image.Image:
    """Return ``image`` as RGB, white where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


# -- ground ---------------------------------------------------------------------------------------------------------


def _palette(chance: random.Random) -> list[Colour]:
    """Return four neighbouring hues and a contrasting one."""
    hue = chance.random()
    shades = ((0.0, 0.6, 0.35), (0.07, 0.55, 0.6), (0.14, 0.47, 0.8), (0.21, 0.35, 0.94), (0.5, 0.47, 0.78))
    drawn = [colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value) for turn, saturation, value in shades]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in drawn]


def _tinted(image: Image.Image, colours: Sequence[Colour]) -> Image.Image:
    """Add a little colour to the picture, so that another seed or prompt gives another result."""
    veil = ImageOps.colorize(image.convert("L"), colours[0], PAPER, colours[2])
    return Image.blend(image, veil, 0.14)


def _aurora(size: tuple[int, int], colours: Sequence[Colour], chance: random.Random) -> Image.Image:
    """Paint bands of soft light under a clear sky."""
    scale = 128 / max(size)
    small = Image.new("L", (max(8, round(size[0] * scale)), max(8, round(size[1] * scale))))
    sky = Image.linear_gradient("L").resize(small.size)
    ground = ImageOps.colorize(sky, colours[1], colours[3], colours[2])
    width, height = small.size
    for step in range(14):
        y, thickness = height * chance.uniform(0.1, 1.1), height * chance.uniform(0.03, 0.14)
        slope, bend = height * chance.uniform(-0.25, 0.25), height * chance.uniform(-0.2, 0.2)
        upper = [(x, y + slope * x / width + bend * (2 * x / width - 1) ** 2) for x in range(-4, width + 5, 4)]
        light = Image.new("L", small.size)
        lower = [(x, v + thickness) for x, v in reversed(upper)]
        ImageDraw.Draw(light).polygon([*upper, *lower], fill=chance.randrange(90, 190))
        light = light.filter(ImageFilter.GaussianBlur(max(1.0, height * chance.uniform(0.015, 0.06))))
        ground.paste((colours[4], PAPER, colours[0], colours[3])[step % 4], mask=light)
    return ground.filter(ImageFilter.GaussianBlur(1.5)).resize(size, Image.Resampling.BICUBIC)


# -- what is on it --------------------------------------------------------------------------------------------------


def _banner(canvas: Image.Image, prompt: str, unit: float) -> int:
    """Write the prompt on a dark strip along the foot; returns the strip's height in pixels."""
    words = _readable(" ".join(prompt.split()))
    if not words:
        return 0
    margin = round(unit * 3.5)
    font = _font(unit * 3.1)
    line_height = round(unit * 4.2)
    most = max(1, min(4, round(canvas.height * 0.35 - 2 * margin) // line_height))
    lines = _wrapped(words, font, canvas.width - 2 * margin, most)
    height = min(canvas.height // 2, len(lines) * line_height + round(margin * 1.3))
    box = (0, canvas.height - height, canvas.width, canvas.height)
    strip = canvas.crop(box).filter(ImageFilter.GaussianBlur(unit))
    strip = Image.blend(strip, Image.new("RGB", strip.size, INK), 0.72)
    draw = ImageDraw.Draw(strip)
    draw.rectangle((0, 0, strip.width, max(0, round(unit * 0.4) - 1)), fill=SIGNAL)
    for number, line in enumerate(lines):
        draw.text((margin, round(margin * 0.62) + number * line_height), line, font=font, fill=PAPER)
    canvas.paste(strip, box[:2])
    return height


def _prints(canvas: Image.Image, pictures: Sequence[Image.Image], unit: float, foot: int) -> None:
    """Paste the further pictures as small prints above the banner, from the right, as many as there is room for."""
    gap, edge = round(unit * 2.5), max(1, round(unit * 0.7))
    room = canvas.width - 2 * gap
    if not pictures:
        return
    share = min(unit * 26, room / len(pictures) - gap, (foot - unit * 14) * 0.6)
    if share < 12:
        return
    right = canvas.width - gap
    for picture in reversed(pictures):  # so that they read from left to right
        print_ = flattened(picture)
        print_.thumbnail((round(share), round(share)), Image.Resampling.LANCZOS)
        print_ = ImageOps.expand(print_, edge, PAPER)
        left, top = right - print_.width, foot - gap - print_.height
        shadow = Image.new("L", (print_.width + 4 * edge, print_.height + 4 * edge))
        shadow.paste(110, (2 * edge, 2 * edge, 2 * edge + print_.width, 2 * edge + print_.height))
        canvas.paste(INK, (left - edge, top - edge), shadow.filter(ImageFilter.GaussianBlur(edge)))
        canvas.paste(print_, (left, top))
        right = left - gap


def _sign(canvas: Image.Image, words: str, unit: float) -> None:
    """Frame the picture and put the label into its upper left corner, in a size that fits."""
    draw = ImageDraw.Draw(canvas)
    frame = max(1, round(unit * 0.4))
    draw.rectangle((0, 0, canvas.width - 1, canvas.height - 1), outline=SIGNAL, width=frame)
    width, height = canvas.width - 2 * frame, canvas.height - 2 * frame
    parts = words.split(" · ")
    layouts = [words], [parts[0], " · ".join(parts[1:])], parts
    wanted = max(9.0, unit * 2.6)
    text, font = "\n".join(parts), _font(5)
    for lines in layouts:  # one line if it can be read, else two, else three as large as they fit
        text = "\n".join(lines)
        font = _font(wanted)
        box = draw.multiline_textbbox((0, 0), text, font=font, spacing=unit)
        if box[2] * 1.12 <= width and box[3] * 1.3 <= height:
            break
    else:
        shrink = min(width / (box[2] * 1.12), height / (box[3] * 1.3))
        font = _font(max(5.0, wanted * shrink))
        box = draw.multiline_textbbox((0, 0), text, font=font, spacing=unit)
    pad = max(1, round((box[3] - box[1]) * 0.5 / (text.count("\n") + 1)))
    draw.rectangle((frame, frame, frame + box[2] + 2 * pad, frame + box[3] + round(1.6 * pad)), fill=SIGNAL)
    draw.multiline_text((frame + pad, frame + pad // 2), text, font=font, fill=INK, spacing=unit)


# -- words ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _font(pixels: float) -> Font:
    return ImageFont.load_default(pixels)


@lru_cache(maxsize=4096)
def _is_drawn(character: str) -> bool:
    """Check whether the font has a shape for ``character``."""
    font = _font(16)
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def _readable(words: str) -> str:
    """Return at most 600 characters, with a dot for each that the font cannot draw."""
    return "".join(c if c == " " or _is_drawn(c) else "·" for c in words[:600])


def _fitting(word: str, font: Font, width: float) -> int:
    """Return how many characters of ``word``, which is longer, fit into ``width`` pixels: at least one."""
    return max(1, bisect_right(range(1, len(word)), width, key=lambda count: font.getlength(word[:count])))


def _wrapped(words: str, font: Font, width: float, most: int) -> list[str]:
    """Return ``words`` in at most ``most`` lines of ``width`` pixels, with an ellipsis where some are left out."""
    lines: list[str] = []
    line = ""
    for word in words.split(" "):
        while font.getlength(word) > width and len(word) > 1:  # longer than a line: cut anywhere
            fits = _fitting(word, font, width)
            lines += [line] if line else []
            line, word = word[:fits], word[fits:]
        tried = f"{line} {word}".strip()
        if font.getlength(tried) <= width:
            line = tried
        else:
            lines, line = [*lines, line], word
    lines.append(line)
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(f"{last}…") > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last.rstrip()}…"]
