"""`slipstream inspect --files`: on a real file system, in words, in JSON, and as a picture."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from slipstream.cli import cli
from slipstream.delta.errors import DigestMismatch, FormatError, SlipstreamError, UsageError
from slipstream.delta.limits import MIB
from slipstream.server.build import build_payload
from tests.server.image_pairs import make_image, make_trees, text


@dataclass(frozen=True)
class Files:
    """Two images, a delta between them, and a full payload of the later one."""

    source: Path
    target: Path
    delta: Path
    full: Path

    @property
    def words(self) -> list[object]:
        return [self.delta, "--files", "--target", self.target, "--source", self.source]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("inspect")
    trees = make_trees(folder, nested=True)
    source = make_image("ext4", trees.source, folder / "source.img")
    target = make_image("ext4", trees.target, folder / "target.img")
    made = Files(source, target, folder / "delta", folder / "full")
    for one, path in ((source, made.delta), (None, made.full)):
        build_payload(one, target, path, jobs=1, memory_bytes=96 * MIB, profile="fast")
    return made


def inspect(*words: object) -> str:
    done = CliRunner().invoke(cli, ["inspect", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(error: type[SlipstreamError], match: str, *words: object) -> None:
    with pytest.raises(error, match=match):
        inspect(*words)


def test_every_byte_has_a_file(files: Files) -> None:
    told = json.loads(inspect(*files.words, "--json"))
    rows = {row["path"]: row for row in told["files"]}

    size = files.delta.stat().st_size
    assert told["payload_bytes"] == size
    assert sum(row["encoded_bytes"] for row in told["files"]) == size
    assert sum(told["kinds"].values()) == size
    assert told["target_kind"].startswith("ext4")
    assert rows["usr/share/new"]["kind"] == "new"
    assert "no file of this name" in rows["usr/share/new"]["why"]
    module = rows["boot/initrd.img-6.1.20/usr/lib/modules/6.1.20/kernel/module-7.ko"]
    assert module["kind"] == "changed"
    assert module["before"] == "boot/initrd.img-6.1.19/usr/lib/modules/6.1.19/kernel/module-7.ko"
    # What only moved, or stayed, costs next to nothing: no byte of it is new.
    for path in ("usr/share/moved/photo", "usr/share/doc/package-0/copyright"):
        assert rows.get(path, {"fresh_bytes": 0})["fresh_bytes"] == 0
    shares = told["kinds"]
    assert shares["changed"] > shares["new"] > shares["metadata"]


def test_the_device_is_told_of(files: Files) -> None:
    device = json.loads(inspect(*files.words, "--json"))["device"]
    size = files.target.stat().st_size

    assert device["memory_bytes"] > 0
    assert 0 < device["written_over_source_bytes"] < device["written_bytes_max"] == size
    assert device["scratch_bytes"] == 0
    assert {name.partition(" ")[0] for name in device["libraries"]} == {"gzip", "liblzma"}
    # The initrd, six documents and the firmware are packed again as a whole.
    assert device["packed_again_bytes"] > 1_600_000 + 6 * 50_000 + 300_000
    assert sum(device["packed_again"].values()) == device["packed_again_bytes"]
    assert device["packed_again_s"] > 0


def test_a_full_payload_is_measured_or_estimated(files: Files) -> None:
    measured = json.loads(inspect(*files.words, "--full", files.full, "--json"))
    estimated = json.loads(inspect(*files.words, "--json"))
    size = files.full.stat().st_size

    assert measured["full_payload_is_measured"]
    assert measured["full_payload_bytes"] == size
    assert not estimated["full_payload_is_measured"]
    assert estimated["full_payload_bytes"] == pytest.approx(size, rel=0.3)
    assert "about" in inspect(*files.words)
    itself = json.loads(inspect(files.full, "--files", "--target", files.target, "--json"))
    assert itself["full_payload_is_measured"]
    assert itself["full_payload_bytes"] == size


def test_without_its_source_files_are_neither_new_nor_changed(files: Files) -> None:
    told = json.loads(inspect(files.delta, "--files", "--target", files.target, "--json"))

    assert "file" in told["kinds"]
    assert {"new", "changed"}.isdisjoint(told["kinds"])
    assert told["source_kind"] is None
    assert told["device"]["written_over_source_bytes"] is None
    assert sum(told["kinds"].values()) == files.delta.stat().st_size


def test_words_name_the_largest_first(files: Files) -> None:
    lines = inspect(*files.words, "--top", 3).splitlines()

    listed = lines[lines.index("") + 1 :]
    assert listed[0].split()[2:4] == ["new", "usr/share/new"]
    assert listed[1].strip().startswith("no file of this name in the source; ")
    assert len(listed) == 7
    assert listed[-1].endswith("more (--top)")
    assert any(line.startswith("libraries        gzip ") for line in lines)


def test_an_image_without_a_file_system_is_explained_too(tmp_path: Path) -> None:
    source, target, payload = (tmp_path / name for name in ("source", "target", "payload"))
    source.write_bytes(bytes(range(256)) * 400)
    target.write_bytes(bytes(range(256)) * 300 + b"something else" + bytes(range(256)) * 100)
    build_payload(source, target, payload, jobs=1, memory_bytes=96 * MIB)
    told = json.loads(inspect(payload, "--files", "--target", target, "--source", source, "--json"))

    assert told["target_kind"] == "raw"
    assert set(told["kinds"]) == {"unattributed", "tables"}
    assert any(note.startswith("target: ") for note in told["notes"])


@pytest.mark.parametrize("kind", ["squashfs xz", "erofs lz4hc"])
def test_files_in_the_blocks_of_a_compressed_file_system_are_told_apart(
    tmp_path: Path, kind: str
) -> None:
    trees = make_trees(tmp_path, nested=False)
    source = make_image(kind, trees.source, tmp_path / "source.img")
    target = make_image(kind, trees.target, tmp_path / "target.img")
    payload = tmp_path / "payload"
    build_payload(source, target, payload, jobs=1, memory_bytes=96 * MIB, profile="fast")
    told = json.loads(inspect(payload, "--files", "--target", target, "--source", source, "--json"))
    rows = {row["path"]: row for row in told["files"]}

    assert sum(row["encoded_bytes"] for row in told["files"]) == payload.stat().st_size
    assert rows["usr/share/new"]["kind"] == "new"
    new = rows["usr/share/new"]
    assert new["fresh_bytes"] + new["differing_bytes"] > 5900  # 6000 bytes of noise, few of them 0
    for n in range(6):
        assert rows[f"lib/modules/6.1.20/module-{n}.ko"]["kind"] == "changed"
        unchanged = rows.get(f"usr/share/doc/package-{n}/copyright", {"encoded_bytes": 0})
        assert unchanged["encoded_bytes"] < 100
    assert told["kinds"]["changed"] > 10 * told["kinds"].get("unattributed", 0)


def test_what_was_not_opened_is_named(tmp_path: Path) -> None:
    images = []
    for side, later in (("source", False), ("target", True)):
        document = text(1, 90_000, later=later)
        # Huffman codes alone: no gzip makes this, and no recipe.
        encoder = zlib.compressobj(6, wbits=31, strategy=zlib.Z_HUFFMAN_ONLY)
        (tmp_path / side).mkdir()
        (tmp_path / side / "document.gz").write_bytes(encoder.compress(document) + encoder.flush())
        (tmp_path / side / "document").write_bytes(document)
        images.append(make_image("ext4", tmp_path / side, tmp_path / f"{side}.img"))
    source, target = images
    build_payload(source, target, tmp_path / "payload", jobs=1, memory_bytes=96 * MIB)
    told = json.loads(inspect(tmp_path / "payload", "--files", "--target", target, "--json"))
    why = {row["path"]: row["why"] for row in told["files"]}

    assert why["document.gz"].startswith(
        "its gzip content was not opened (no recipe packs it again, or only with more --memory); "
    )
    assert "not opened" not in why["document"]


def test_the_picture_has_the_files(files: Files, tmp_path: Path) -> None:
    inspect(*files.words, "--svg", tmp_path / "map.svg")

    picture = ET.parse(tmp_path / "map.svg").getroot()
    words = [one.text or "" for one in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert any(one.startswith("boot/initrd.img-6.1.20/") for one in words)
    assert any(one.startswith("usr/share/new: ") and ", new; " in one for one in words)


@pytest.mark.parametrize("option", ["target", "source", "full"])
def test_other_images_are_refused(files: Files, option: str) -> None:
    given = {"target": files.target, "source": files.source, "full": files.full}
    wrong: dict[str, tuple[type[SlipstreamError], str, Path]] = {
        "target": (DigestMismatch, "not the target", files.source),
        "source": (DigestMismatch, "not the source", files.target),
        "full": (UsageError, "not a full payload", files.delta),
    }
    error, match, path = wrong[option]
    words = [word for name, one in {**given, option: path}.items() for word in (f"--{name}", one)]

    refused(error, match, files.delta, "--files", *words)


def test_a_full_payload_of_another_target_is_refused(files: Files, tmp_path: Path) -> None:
    build_payload(None, files.source, tmp_path / "full", jobs=1, memory_bytes=96 * MIB)

    refused(DigestMismatch, "another target", *files.words, "--full", tmp_path / "full")


def test_an_image_of_another_length_is_refused(files: Files, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    longer.write_bytes(files.target.read_bytes() + b"\0")

    refused(DigestMismatch, "not the target", files.delta, "--files", "--target", longer)


@pytest.mark.parametrize("option", ["target", "source", "full", "svg"])
def test_options_of_files_need_files(files: Files, option: str) -> None:
    refused(UsageError, f"--{option} says nothing", files.delta, f"--{option}", files.target)


def test_files_need_a_target(files: Files) -> None:
    refused(UsageError, "--files needs the image", files.delta, "--files")


def test_a_full_payload_has_no_source(files: Files) -> None:
    words = ["--files", "--target", files.target, "--source", files.source]
    refused(UsageError, "has no source", files.full, *words)


def test_an_index_alone_is_refused(files: Files, tmp_path: Path) -> None:
    alone = tmp_path / "index"
    alone.write_bytes(files.delta.read_bytes()[:-1])

    refused(FormatError, "another length", alone, *files.words[1:])


def test_the_picture_replaces_no_input(files: Files) -> None:
    before = files.target.read_bytes()

    refused(UsageError, "output is also an input", *files.words, "--svg", files.target)
    assert files.target.read_bytes() == before


def test_a_broken_frame_is_refused(files: Files, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    whole = files.delta.read_bytes()
    broken.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    refused(DigestMismatch, "frame", broken, *files.words[1:])
