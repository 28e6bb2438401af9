"""Poisoned pictures among good ones: each ends as ``invalid`` or is done properly, and none harms the others.

Nothing is submitted for what is invalid, nothing is decoded to find that out, and nothing waits for ever.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from forked import Forked
from pictures import encoded, noise, png_header
from PIL import Image
from waiting import PATIENCE

# Prefect's own client leaves its connections to the server to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SIZE = (96, 80)
HERE = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
RECIPE = "source: {images: 'photos/*'}\nsteps: [deblur]\noutput: {path: 'out/{{ stem }}.png'}\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """A good PNG with one chunk more before its pixels."""
    png = encoded(noise(SIZE, seed=sum(kind)))
    return png[:33] + chunk(kind, content) + png[33:]


@functools.cache
def bomb(size: int = 300_000_000) -> bytes:
    """A few hundred kilobytes that unpack to ``size`` zeros."""
    packer = zlib.compressobj(9)
    part = bytes(1_000_000)
    return b"".join(packer.compress(part) for _ in range(size // len(part))) + packer.flush()


def big_png(width: int = 30_000, height: int = 30_000) -> bytes:
    """A picture of 900 MP, whole and right, in a file of a few hundred kilobytes."""
    packer = zlib.compressobj(9)
    rows = b"\0" * ((width // 8 + 1) * 1_000)
    pixels = b"".join(packer.compress(rows) for _ in range(height // 1_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def many_frames(kind: str, count: int = 300) -> bytes:
    frames = [Image.new("P" if kind == "GIF" else "RGB", SIZE, n % 250) for n in range(count)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=10, loop=0)
    return buffer.getvalue()


def exif(kind: str) -> bytes:
    """EXIF data whose lists lead back to themselves, or promise more than there is."""
    head = b"Exif\0\0II*\0\x08\0\0\0"
    if kind == "circle":  # a sub-directory at its own place
        entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
        return head + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    if kind == "many":
        return head + struct.pack("<H", 65_535) + struct.pack("<HHII", 0x0112, 3, 1, 6) * 5_000
    entry = struct.pack("<HHII", 0x0131, 2, 0xFFFFFFFF, 26)  # a text of 4 GB
    return head + struct.pack("<H", 1) + entry + struct.pack("<I", 0)


def jpeg_with(exif_data: bytes) -> bytes:
    jpeg = encoded(noise(SIZE, seed=len(exif_data)), "JPEG")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", min(len(exif_data) + 2, 65_535)) + exif_data[:65_533] + jpeg[2:]


def cut(kind: str) -> bytes:
    whole = encoded(noise(SIZE), kind)
    return whole[: len(whole) // 2]


INVALID: dict[str, Callable[[], bytes]] = {
    "empty.png": lambda: b"",
    "one-byte.png": lambda: b"\x89",
    "zeros.png": lambda: bytes(100_000),
    "signature-only.png": lambda: b"\x89PNG\r\n\x1a\n",
    "cut.png": lambda: cut("PNG"),
    "cut.jpg": lambda: cut("JPEG"),
    "cut.webp": lambda: cut("WEBP"),
    "cut-in-header.png": lambda: encoded(noise(SIZE))[:20],
    "pixels-are-garbage.png": lambda: png_header(*SIZE)[:-12],
    "bomb.png": big_png,
    "bomb-by-header.png": lambda: png_header(2**31 - 1, 2**31 - 1),
    "no-width.png": lambda: png_header(0, 80),
    "no-size.png": lambda: png_header(0, 0),
    "thin.png": lambda: png_header(100_000_000, 1),
    "bomb.gif": lambda: b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;",
    "bomb.bmp": lambda: (
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "text.png": lambda: b"just some text\n" * 100,
    "html.png": lambda: b"<!doctype html><script>alert(1)</script>",
    "svg.png": lambda: (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="96" height="80"><script>alert(1)</script></svg>'
    ),
    "svg-entities.png": lambda: b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
    "postscript.png": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 80\n(%pipe%touch owned) (w) file\n",
    "pdf.png": lambda: b"%PDF-1.7\n1 0 obj <</Type/Catalog>> endobj\ntrailer <</Root 1 0 R>>\n%%EOF",
    "archive.png": lambda: b"PK\x03\x04" + bytes(200),
    "pickle.png": lambda: b"\x80\x04\x95" + bytes(50),
    "photoshop.png": lambda: b"8BPS\0\x01" + bytes(200),
    "icon.png": lambda: b"\0\0\x01\0\x01\0" + bytes(100),
    "heic.jpg": lambda: b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(100),
    "jpeg-2000.jpg": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "fits.png": lambda: b"SIMPLE  =                    T" + b" " * 2850,
    "random.png": lambda: bytes((n * 7919) % 251 for n in range(5_000)),
    "animated.gif": lambda: many_frames("GIF"),
    "sixteen-bit.tif": lambda: encoded(Image.new("I;16", SIZE, 40_000), "TIFF"),
    "tiny.png": lambda: encoded(Image.new("RGB", (1, 1))),
}
"""Each must end as ``invalid``; GIF and TIFF because the service takes none, the tiny one because a tool does not."""

PROPER: dict[str, Callable[[], bytes]] = {
    "sixteen-bit.png": lambda: encoded(Image.new("I;16", SIZE, 40_000)),
    "cmyk.jpg": lambda: encoded(noise(SIZE, "CMYK"), "JPEG"),
    "palette.png": lambda: encoded(noise(SIZE).quantize(16), transparency=0),
    "palette-transparency.png": lambda: encoded(noise(SIZE).quantize(4), transparency=bytes(range(4))),
    "one-bit.png": lambda: encoded(noise(SIZE).convert("1")),
    "grey-alpha.png": lambda: encoded(noise(SIZE, "LA")),
    "animated.webp": lambda: many_frames("WEBP", 50),
    "jpeg-named.png": lambda: encoded(noise(SIZE, seed=4), "JPEG"),
    "no-extension": lambda: encoded(noise(SIZE, seed=5)),
    "exif-circle.jpg": lambda: jpeg_with(exif("circle")),
    "exif-long.jpg": lambda: jpeg_with(exif("long")),
    "exif-circle.png": lambda: with_chunk(b"eXIf", exif("circle")[6:]),
    "exif-long.png": lambda: with_chunk(b"eXIf", exif("long")[6:]),
    "followed-by-a-page.png": lambda: encoded(noise(SIZE, seed=6)) + b"<script>alert(1)</script>",
    "followed-by-an-archive.jpg": lambda: encoded(noise(SIZE, seed=7), "JPEG") + b"PK\x03\x04" + bytes(100),
}
"""Unusual and right: each is done."""

EITHER: dict[str, Callable[[], bytes]] = {
    "exif-many.jpg": lambda: jpeg_with(exif("many")),
    "text-bomb.png": lambda: with_chunk(b"zTXt", b"Comment\0\0" + bomb()),
    "international-text-bomb.png": lambda: with_chunk(b"iTXt", b"Comment\0\x01\0\0\0" + bomb()),
    "profile-bomb.png": lambda: with_chunk(b"iCCP", b"profile\0\0" + bomb()),
    "preview-mark-bomb.png": lambda: with_chunk(b"zTXt", b"flux-pipelines-local-preview\0\0" + bomb()),
    "many-texts.png": lambda: (
        with_chunk(b"tEXt", b"a\0b")[:33]
        + chunk(b"tEXt", b"k\0" + b"v" * 50) * 20_000
        + encoded(noise(SIZE, seed=8))[33:]
    ),
    "wrong-checksum.png": lambda: (
        encoded(noise(SIZE, seed=9)).replace(b"IDAT", b"IDAT", 1)[:-16]
        + b"\0\0\0\0"
        + encoded(noise(SIZE, seed=9))[-12:]
    ),
    "exif-long.webp": lambda: encoded(noise(SIZE, seed=10), "WEBP", exif=exif("many")[6:]),
}
"""Damaged where it does not matter, or where it does: ``done`` and ``invalid`` are both right."""


class Constant(FakeBfl):
    """Delivers the same picture for whatever it is sent: these pictures are for the program to look at."""

    @staticmethod
    def _work(body: dict[str, Any]) -> bytes:
        return encoded(noise(SIZE, seed=77))


@pytest.fixture
def bfl(key: str) -> Iterator[FakeBfl]:
    with Constant(key=key) as server:
        yield server


@pytest.fixture
def gallery(photos: Path, tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return photos


def put(folder: Path, *galleries: dict[str, Callable[[], bytes]]) -> None:
    for pictures in galleries:
        for name, make in pictures.items():
            (folder / name).write_bytes(make())


def by_source(told: Any) -> dict[str, str]:
    return {Path(row["source"]).name: row["outcome"] for row in told.rows.values()}


def unique(folder: Path) -> None:
    """Give every picture a stem of its own, because results are named by it."""
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace(".", "-") + path.suffix))


def test_poisoned_pictures_end_as_invalid_and_the_good_ones_beside_them_are_done(
    cli: Any, bfl: FakeBfl, gallery: Path, tmp_path: Path
) -> None:
    put(gallery, INVALID)
    unique(gallery)
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert told.code == 1
    outcomes = told.outcomes
    wrong = {name: outcomes.get(name.replace(".", "-")) for name in INVALID}
    assert {name: outcome for name, outcome in wrong.items() if outcome != "invalid"} == {}
    assert (outcomes["good0-png"], outcomes["good1-png"]) == ("done", "done")
    assert bfl.jobs == 2
    assert len(bfl.seen("POST /v1/flux-tools/deblur-v1")) == 2, "nothing was submitted for the others"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good0-png.png", "good1-png.png"]
    assert not list(tmp_path.rglob("owned"))
    for name, row in told.rows.items():
        if row["outcome"] == "invalid":
            assert row["error"]["kind"] in ("InvalidImage", "InvalidRequest"), name
            assert 0 < len(row["error"]["message"]) < 1_000, name


def test_unusual_pictures_are_done_and_sent_as_they_are(cli: Any, bfl: FakeBfl, gallery: Path, tmp_path: Path) -> None:
    put(gallery, PROPER)
    wanted = {base64.b64encode(p.read_bytes()).decode() for p in gallery.iterdir()}
    unique(gallery)
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert {name: outcome for name, outcome in told.outcomes.items() if outcome != "done"} == {}, told.out
    assert {body["image"] for body in bfl.bodies} == wanted
    assert len(list((tmp_path / "out").iterdir())) == len(PROPER) + 2
    for path in (tmp_path / "out").iterdir():
        assert Image.open(path).size == SIZE


def test_pictures_with_bombs_in_what_surrounds_their_pixels_harm_nobody(cli: Any, bfl: FakeBfl, gallery: Path) -> None:
    put(gallery, EITHER)
    unique(gallery)
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    outcomes = told.outcomes
    assert (outcomes.pop("good0-png"), outcomes.pop("good1-png")) == ("done", "done")
    assert len(outcomes) == len(EITHER)
    assert set(outcomes.values()) <= {"done", "invalid"}, told.out
    assert bfl.jobs == 2 + list(outcomes.values()).count("done")


# -- what is no file --------------------------------------------------------------------------------------------------


def test_what_is_no_file_at_all_is_never_waited_for_and_disturbs_no_other_item(
    cli: Any, bfl: FakeBfl, gallery: Path, tmp_path: Path
) -> None:
    (gallery / "folder.jpg").mkdir()
    (gallery / "dangling.png").symlink_to(tmp_path / "nothing.png")
    (gallery / "loop.png").symlink_to(gallery / "loop.png")
    (gallery / "null.png").symlink_to("/dev/null")
    (gallery / "zero.png").symlink_to("/dev/zero")
    (gallery / "up").symlink_to(tmp_path)
    os.mkfifo(gallery / "pipe.png")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.path.relpath(gallery / "socket.png"))
        told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    outcomes = told.outcomes
    assert (outcomes.pop("good0"), outcomes.pop("good1")) == ("done", "done")
    assert set(outcomes.values()) <= {"invalid"}, "passed over, or told to be invalid"
    assert bfl.jobs == 2


MASKS = {
    "a missing file": "photos/none.png",
    "a folder": "photos",
    "a dangling link": "odd/dangling.png",
    "a link to itself": "odd/loop.png",
    "a device without content": "/dev/null",
    "a device without end": "/dev/zero",
    "a link to a device": "odd/zero.png",
    "a socket": "odd/socket.png",
    "a file that the system makes up": "/proc/self/environ",
    "a name that cannot be": "photos/" + "x" * 300 + ".png",
    "a name with a NUL": "photos/a\0b.png",
    "a file below a file": "photos/good0.png/x.png",
    "a text": "recipe.yaml",
    "an unknown place": "nowhere://x/y.png",
    "a web address nobody answers at": "http://127.0.0.1:9/x.png",
    "the password file": "/etc/passwd",
    "an empty picture": "odd/empty.png",
    "a cut picture": "odd/cut.png",
    "a bomb": "odd/bomb.png",
}

PIPES = {"a pipe that nobody writes to": "odd/pipe.png", "a link to such a pipe": "odd/link.png"}


@pytest.fixture
def odd(gallery: Path, tmp_path: Path) -> Iterator[Callable[[dict[str, str]], None]]:
    """Makes a recipe that asks for a strange mask for each of its items."""
    for path in gallery.iterdir():
        path.unlink()
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "dangling.png").symlink_to(tmp_path / "nothing")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(cut("PNG"))
    (folder / "bomb.png").write_bytes(png_header(30_000, 30_000))
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(folder / "pipe.png")

    def make(masks: dict[str, str]) -> None:
        for kind in masks:
            (gallery / f"{kind}.png").write_bytes(encoded(noise(SIZE)))
        recipe = {
            "source": {"images": "photos/*", "columns": {"mask": f"{{{{ {masks!r}[stem] }}}}"}},
            "steps": [{"erase": {"mask": "{{ mask }}"}}],
            "output": {"path": "out/{{ stem }}.png"},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))

    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.path.relpath(folder / "socket.png"))  # its name may not be long
        yield make


def test_a_mask_that_is_no_picture_ends_its_item_as_invalid(
    cli: Any, odd: Callable[[dict[str, str]], None], bfl: FakeBfl
) -> None:
    odd(MASKS)
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert told.code == 1
    assert {kind: outcome for kind, outcome in told.outcomes.items() if outcome != "invalid"} == {}
    assert len(told.outcomes) == len(MASKS)
    assert "root:x:0" not in told.all
    assert [r.path for r in bfl.requests] == ["/local"], "nothing was submitted, and the key not even tried"


def test_a_mask_that_is_a_pipe_nobody_writes_to_is_not_waited_for(
    odd: Callable[[dict[str, str]], None], bfl: FakeBfl, tmp_path: Path
) -> None:
    odd(PIPES)
    done = program("run", "recipe.yaml", "--endpoint", bfl.url, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    for kind in PIPES:
        assert f"invalid: {kind}: erase: " in done.stdout
    assert bfl.jobs == 0


def program(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The program in its own process; one that does not end by itself is a failure."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("BFL_", "FLUX_"))}
    environment |= {"FLUX_STORE": str(folder / "store"), "PYTHONPATH": HERE}
    with Forked(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError("it waits for ever") from None
    assert "Traceback" not in out + err, err
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


# -- memory -----------------------------------------------------------------------------------------------------------

MEASURE = """
import json, resource, sys
from flux_tasks import ImageRef
from flux_tasks.catalog import TOOLS
from flux_tasks.errors import FluxError
from flux_tasks.jobs.call import prepare

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def attempt(work):
    before = peak()
    try:
        work()
        said = "taken"
    except FluxError as error:
        said = type(error).__name__
    return [said, peak() - before]

good, *names = sys.argv[1:]
prepare(TOOLS["deblur-v1"], {"image": good}).body()  # everything that is ever imported is imported now
ImageRef.of(good).open()
print(json.dumps({name: [
    attempt(lambda: prepare(TOOLS["deblur-v1"], {"image": name}).body()),
    attempt(lambda: ImageRef.of(name).open()),
] for name in names}))
"""

BOMBS: dict[str, Callable[[], bytes]] = {
    "bomb.png": big_png,
    "bomb-by-header.png": INVALID["bomb-by-header.png"],
    "bomb.gif": INVALID["bomb.gif"],
    "bomb.bmp": INVALID["bomb.bmp"],
    "text.png": EITHER["text-bomb.png"],
    "international-text.png": EITHER["international-text-bomb.png"],
    "profile.png": EITHER["profile-bomb.png"],
    "preview-mark.png": EITHER["preview-mark-bomb.png"],
    "exif.jpg": PROPER["exif-long.jpg"],
    "animated.gif": INVALID["animated.gif"],
    "animated.webp": PROPER["animated.webp"],
}


def test_no_bomb_takes_more_than_a_few_megabytes_to_refuse_or_to_send(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(encoded(noise(SIZE)))
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
        assert (tmp_path / name).stat().st_size < 1_500_000, "it is a small file"
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(good), *BOMBS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": HERE},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: attempts for name, attempts in found.items() if any(mb > 64 for _, mb in attempts)} == {}
    refused = {said for name in BOMBS if name.startswith("bomb") for said, _ in found[name]}
    assert refused <= {"InvalidImage", "InvalidRequest"}
