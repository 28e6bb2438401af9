"""Read what a mask file means: black and white, or a refusal where that is not certain.

Every mask goes through here, wherever it comes from. White marks. Beside it, these have one meaning only:

* A lossless mask with black and one other grey, such as 0 and 1: what is not black marks. So does the second colour of
  a palette of which a file uses two, one of them black.
* Greys between black and white along edges, as painting programs and scaling leave them: from 128 on, they mark.
* Transparent parts count as black: many tools save masks as white paint on transparency.
* Lossy files (JPEG, lossy WebP, AVIF) have noise: up to 24 counts as black, unless it fills areas of its own.

All else is refused, because a guess would be paid for: class ids, paint of another colour, black paint on transparency,
photos.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection

from PIL import Image, ImageChops

from flux_tasks.errors import InvalidImage
from flux_tasks.images.pixels import normalised
from flux_tasks.images.reference import ImageLike, ImageRef

__all__ = ["NOISE", "interpret", "levels", "mask_reference", "read_mask", "threshold"]

NOISE = 24
"""What lossy files make of black, at most, and of white: 255 less this."""

_FEW = 64  # class ids of one picture are fewer; soft edges have more greys
_REAL = 0.02  # of what is not background: what a value of its own fills at least, and what noise in colours does not
_BLOCK = 32 * 32  # pixels of which a lossy encoder makes one faint area, at most, in a picture that is all black
_WIDE = ("I", "F")
_BLACK_AND_WHITE = "save the part that you mean white on black"
_HOLES = "Where its holes are what may change, give it as the picture, with mask: {alpha: true}"
_ALPHA = "load_image and mask_from_alpha make a mask of a file's alpha; mask_invert swaps it"


def read_mask(picture: ImageRef) -> Image.Image:
    """Return the mask that a file shows: upright, ``L``, with 0 and 255 only.

    Raises:
        InvalidImage: it cannot be read, or its meaning is not certain; the message begins with its location.
    """
    image = picture.open(keep_depth=True)
    try:
        is_lossy = _is_lossy(picture, image)
        image = image if image.mode[0] in "IFP" else normalised(image)
        mask = interpret(image, is_lossy=is_lossy)
        _check_no_photo(image)
    except (InvalidImage, ValueError) as error:  # Pillow converts few pictures of rare modes
        what = error if isinstance(error, InvalidImage) else f"its pixels cannot be judged: {error}"
        raise InvalidImage(f"{picture.uri or picture.name}: {what}") from None
    return mask


def mask_reference(source: ImageLike) -> ImageRef:
    """Return a reference to a mask. A Pillow image with a palette, or of 16 or 32 bits, keeps what it means.

    ``ImageRef.of`` makes 8 bits, or colours, of it, in which small values are lost.

    Raises:
        InvalidImage: as ``ImageRef.of`` and ``read_mask`` do.
    """
    found = ImageRef.of(source)
    if not isinstance(source, Image.Image) or source.mode[0] not in "IFP":
        return found
    exact = interpret(source)
    try:
        is_same = read_mask(found).tobytes() == exact.tobytes()
    except InvalidImage:
        is_same = False
    return found if is_same else ImageRef.of(exact)


def threshold(image: Image.Image, at: int = 128) -> Image.Image:
    """Return white where an ``L`` picture reaches ``at``, else black."""
    return image.point([0] * at + [255] * (256 - at))


def levels(image: Image.Image) -> Image.Image:
    """Return the luminance, 0 to 255, of a picture of at most 8 bits; what is transparent is black."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return ImageChops.multiply(image.convert("L"), image.getchannel("A"))
    return image.convert("L")


def interpret(image: Image.Image, *, is_lossy: bool = False) -> Image.Image:
    """Return the mask that pixels show: ``L``, with 0 and 255 only.

    Args:
        image: upright, with its full depth.
        is_lossy: it comes from a file whose pixels are not exact.

    Raises:
        InvalidImage: its meaning is not certain; the message says what was found and what to do.
    """
    values: list[float] = []
    if image.mode[0] in "IF":
        image = _wide(image)
        if image.mode == "F" and not all(map(math.isfinite, array("f", image.tobytes()))):
            raise InvalidImage(f"the mask has pixels that are no numbers (NaN, infinite): {_BLACK_AND_WHITE}")
        values = [value for _, value in image.getcolors(_FEW) or () if isinstance(value, (int, float))]
        if len(values) == 2 and 0 in values:
            highest = max(values, key=abs)
            return threshold(image.point(lambda value: value * (255 / highest) + 0.5).convert("L"))
        shown = _by_white(image)
        is_black = not any(image.getextrema())
    elif (label := _label(image)) is not None:
        return label
    else:
        shown = levels(image)
        _check_alpha(image, shown)
        brightest = int(shown.getextrema()[1])  # type: ignore[arg-type]
        if is_lossy:
            is_black = brightest <= NOISE and not _is_faint_paint(shown)
        else:
            is_black = not brightest and not _is_coloured(image)
    tally = shown.histogram()
    used = [value for value, count in enumerate(tally) if count]
    is_merged = len(values) > max(2, len(used))  # ids of 16 bits that look alike in 8
    if not is_lossy and len(used) == 2 and not used[0] and not is_merged and not _is_coloured(image):
        return threshold(shown, 1)
    mask = threshold(shown)
    if mask.getbbox() is None:
        if not is_black:
            raise InvalidImage(f"the mask has {_values(image)} and no white: paint what may change white{_hint(image)}")
    elif used[0] >= 128 and used[0] < 255 - NOISE:
        raise InvalidImage(f"the mask has {_values(image)}, all of them bright: paint black what has to stay")
    elif is_merged or _has_classes(shown, tally, is_lossy=is_lossy):
        what = f"the mask has {_values(image)} in whole areas, and only black and white mean something"
        raise InvalidImage(f"{what}: {_BLACK_AND_WHITE}{_hint(image)}")
    return mask


def _label(image: Image.Image) -> Image.Image | None:
    """Return the mask of a palette picture that uses two colours, black and another one; None for any other."""
    if image.mode != "P" or image.has_transparency_data:
        return None
    indices = Image.frombytes("L", image.size, image.tobytes())
    colours = image.convert("RGB").getcolors(2) or ()
    if len(colours) == 1 and len(image.getcolors() or ()) > 1:  # the palette is lost, so that the indices say it
        return interpret(indices)
    if len(colours) != 2 or (0, 0, 0) not in [colour for _, colour in colours]:
        return None
    black = Image.new("RGB", image.size)
    red, green, blue = ImageChops.difference(image.convert("RGB"), black).split()
    return threshold(ImageChops.lighter(ImageChops.lighter(red, green), blue), 1)


def _wide(image: Image.Image) -> Image.Image:
    """Return greys of 16 bits as those of 32, whose white is looked for: many a mask of 16 bits ends at 255."""
    return image.convert("I") if image.mode.startswith("I;16") else image


def _by_white(image: Image.Image) -> Image.Image:
    """Return greys of 16 and 32 bits as ``L``: their white is the least of 1.0 (floats), 255 and 65,535 that fits.

    ``eight_bit`` spreads the values that a picture has; here 1, 2 and 3 must stay dark.
    """
    image = _wide(image)
    highest = float(image.getextrema()[1])  # type: ignore[arg-type]
    white = next((top for top in ((1.0,) if image.mode == "F" else ()) + (255.0, 65535.0) if highest <= top), highest)
    return image.point(lambda value: value * (255 / white) + 0.5).convert("L")


def _check_alpha(image: Image.Image, shown: Image.Image) -> None:
    """Check that a mask with transparent parts has paint other than black.

    Raises:
        InvalidImage: it has none, so that nobody knows whether the paint marks or what is left free of it.
    """
    if not image.has_transparency_data or shown.getbbox() is not None:
        return
    lowest, highest = image.convert("RGBA").getchannel("A").getextrema()
    if highest == 0:
        raise InvalidImage(f"the mask is transparent all over, and so marks nothing: {_BLACK_AND_WHITE}")
    if lowest != 255:
        raise InvalidImage(f"the mask is black paint on transparency: paint what may change white ({_ALPHA})")


def _is_coloured(image: Image.Image) -> bool:
    return image.mode not in ("1", "L", "LA", "La", *_WIDE) and _chroma(image).getbbox() is not None


def _chroma(image: Image.Image) -> Image.Image:
    """Return how far the brightest of red, green and blue is above the darkest, 0 where a pixel is transparent."""
    clear = image.has_transparency_data
    image = image.convert("RGBA" if clear else "RGB")
    red, green, blue = image.split()[:3]
    high = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    low = ImageChops.darker(ImageChops.darker(red, green), blue)
    chroma = ImageChops.subtract(high, low)
    return ImageChops.multiply(chroma, image.getchannel("A")) if clear else chroma


def _is_faint_paint(shown: Image.Image) -> bool:
    """Check whether a dark picture from a lossy file has areas of black and of another value: noise fills none."""
    flat = _flat(shown)
    return min(flat[0], sum(flat[1:])) > _BLOCK


def _flat(shown: Image.Image) -> list[int]:
    """Return how many pixels of each value equal the one below and the one to the right of them."""
    return shown.histogram(_steps(shown).point([255] + [0] * 255))


def _has_classes(shown: Image.Image, tally: list[int], *, is_lossy: bool) -> bool:
    """Check whether greys fill whole areas, as class ids do, and are not just the rim of a mask that was smoothed.

    One dark grey and one bright one are a mask. A picture has areas of two dark or two bright ones only where each of
    them means something else.
    """
    flat = _flat(shown)
    others = sum(tally) - max(tally)
    if is_lossy:
        flat = _without_noise(flat, least=_REAL / 10 * others)
    flat[255] = sum(flat[255 - NOISE :])
    flat[255 - NOISE : 255] = [0] * NOISE
    two = max(flat[:128]) + max(flat[128:])
    if is_lossy:  # edges and noise are hardly ever flat, but for a block or two
        return sum(flat) - two > max(256, 0.4 * (sum(tally) - two)) and not _is_smooth(shown)
    if sum(map(bool, tally)) > _FEW:
        return sum(flat) - two > 0.5 * others and not _is_smooth(shown)
    real = [value for value, count in enumerate(flat) if count > _REAL * others]
    return sum(value < 128 for value in real) > 1 or sum(value >= 128 for value in real) > 1


def _without_noise(flat: list[int], least: float) -> list[int]:
    """Return ``flat`` with each run of near values, which noise makes of one, counted in its middle; gradual ones not.

    Args:
        least: values with fewer pixels are noise.
    """
    runs: list[list[int]] = []
    for value in (value for value, count in enumerate(flat) if count > least):
        if not runs or value - runs[-1][-1] > 2:
            runs.append([])
        runs[-1].append(value)
    merged = [0] * 256
    for run in (run for run in runs if run[-1] - run[0] <= NOISE):
        merged[run[len(run) // 2]] = sum(flat[value] for value in run)
    return merged


def _steps(shown: Image.Image) -> Image.Image:
    """Return how far each pixel is from the one below and the one to the right of it, whichever is further."""
    width, height = shown.size
    below, right = shown.crop((0, 1, width, height + 1)), shown.crop((1, 0, width + 1, height))
    return ImageChops.lighter(ImageChops.difference(shown, below), ImageChops.difference(shown, right))


def _is_smooth(shown: Image.Image) -> bool:
    """Check whether greys change gradually, as in a mask with a wide soft edge; a photo has details."""
    greys = shown.point([0] * (NOISE + 1) + [255] * (254 - 2 * NOISE) + [0] * (NOISE + 1))
    tally = _steps(shown).histogram(greys)
    return sum(tally) > 0 and sum(tally[9:]) <= 0.1 * sum(tally[1:])


def _check_no_photo(image: Image.Image) -> None:
    """Check that most of what is not transparent is black, white or one grey, and that nearly nothing has a colour.

    Greys that change gradually are allowed, because wide soft edges are such.

    Raises:
        InvalidImage: it looks like a photo.
    """
    seen = None
    if image.mode[0] in "IF":
        shown = _by_white(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        shown, seen = image.convert("L"), threshold(image.getchannel("A"))
    else:
        shown = image.convert("L")
    tally = shown.histogram(seen)
    if sum(map(bool, tally)) <= 2:
        return
    between = tally[NOISE + 1 : 255 - NOISE]
    greys = (sum(between) - max(between)) / max(1, sum(tally))
    many = image.mode not in ("1", "L") and image.mode[0] not in "IF" and image.convert("RGB").getcolors(256) is None
    coloured = sum(_chroma(image).histogram(seen)[49:]) / max(1, sum(tally)) if many else 0.0
    if coloured <= _REAL and (greys <= 0.5 or _is_smooth(shown)):
        return
    what = f"the mask looks like a photo: {max(greys, coloured):.0%} of it is neither black nor white"
    if seen is None or seen.getextrema()[0] == 255:
        raise InvalidImage(f"{what}. A mask marks in white what may change; {_BLACK_AND_WHITE}")
    raise InvalidImage(f"{what}. {_HOLES}")


def _values(image: Image.Image) -> str:
    """Return the values or colours that were found, shortened, for a message."""
    image = image.convert("RGB") if _is_coloured(image) else image if image.mode in _WIDE else levels(image)
    found = [value for _, value in image.getcolors(4096) or ()]
    name = "colour" if image.mode == "RGB" else "value"
    if not found:
        return f"thousands of {name}s"
    texts = [_hex(v) if isinstance(v, tuple) else f"{v:g}" for v in sorted(found)]
    more = f" and {len(texts) - 6} more" if len(texts) > 6 else ""
    return f"the {name}{'s' if len(texts) > 1 else ''} {', '.join(texts[:6])}{more}"


def _hint(image: Image.Image) -> str:
    """Return how to mark the holes of a picture, or to choose one of several classes, for a message; else nothing."""
    if image.mode in _WIDE:
        return ""
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() == (0, 255):
        return f". {_HOLES}"
    colours = image.convert("RGB").getcolors(_FEW) or []
    found = [(count, v) for count, v in colours if isinstance(v, tuple) and set(v) not in ({0}, {255})]
    if not found:
        return ""
    _, commonest = max(found, key=lambda entry: (entry[0], min(255 - part for part in entry[1])))
    return f"; load_image and mask_from_color: {{color: '{_hex(commonest)}'}} make a mask of one of them"


def _hex(colour: Collection[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _is_lossy(picture: ImageRef, image: Image.Image) -> bool:
    """Check whether a file's type changes pixels a little."""
    if picture.media_type == "image/webp":
        return not _has_lossless_chunk(picture.read())
    return picture.media_type in ("image/jpeg", "image/avif") or "jpeg" in str(image.info.get("compression", ""))


def _has_lossless_chunk(webp: bytes) -> bool:
    at = 12
    while at + 8 <= len(webp):
        if webp[at : at + 4] in (b"VP8L", b"VP8 "):
            return webp[at : at + 4] == b"VP8L"
        at += 8 + (int.from_bytes(webp[at + 4 : at + 8], "little") + 1) // 2 * 2
    return False
