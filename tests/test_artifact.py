"""The artifact folder: round trip, atomic writes, hashes, and everything that can be wrong with one."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

import ibpc
from ibpc import artifact, files
from ibpc.errors import ArtifactError, GraphError
from ibpc.files import sha256_of
from tests import ROOT

SPEC = ROOT / "specs" / "digits_small.json"
FILES = {"manifest.json", "graph.json", "weights.safetensors", "nominal.py.txt", "interval.py.txt"}


@pytest.fixture
def network():
    return ibpc.compile(SPEC, seed=3)


@pytest.fixture
def saved(network, tmp_path):
    network.save(tmp_path / "compiled")
    return tmp_path / "compiled"


def test_a_round_trip_gives_the_same_network(network, saved):
    again = ibpc.load(saved)
    assert {entry.name for entry in saved.iterdir()} == FILES
    assert again.graph.to_json() == network.graph.to_json()
    x = torch.rand(3, *network.input_shape)
    assert torch.equal(again.nominal(x), network.nominal(x))
    assert again.source == network.source and again.source.kind == "spec"


def test_weights_that_were_changed_count_as_trained(network, tmp_path):
    """Nothing is to overwrite or to draw anew what a loop of one's own has trained."""
    network.save(tmp_path / "fresh")
    assert not network.is_changed and not artifact.is_trained(tmp_path / "fresh")
    with torch.no_grad():
        next(network.parameters.parameters()).add_(0.5)
    network.save(tmp_path / "changed")
    assert network.is_changed and artifact.is_trained(tmp_path / "changed")
    assert not ibpc.load(tmp_path / "changed").is_changed


def test_weights_that_are_no_numbers_are_not_saved(network, saved):
    before = ibpc.load(saved).fingerprint()
    with torch.no_grad():
        next(network.parameters.parameters()).fill_(torch.nan)
    with pytest.raises(ArtifactError, match="NaN or infinity"):
        network.save(saved)
    assert ibpc.load(saved).fingerprint() == before


def test_a_network_is_copied_and_pickled(network):
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.fingerprint() == network.fingerprint()


def test_entries_that_do_not_fit_are_not_assigned(network):
    before, name = network.fingerprint(), next(iter(network.graph.state))
    with pytest.raises(GraphError, match="1×1×1; expected(.*)\n(.*)no such entry"):
        network.assign({name: torch.zeros(1, 1, 1), "nothing.weight": torch.zeros(1)})
    assert network.fingerprint() == before


def test_ties_survive(network, tmp_path):
    from ibpc.margins import class_differences
    from ibpc.network import Network
    from ibpc.passes.merge_specification import merge_specification

    merged = merge_specification(network.snapshot(), class_differences(10)).graph
    Network(merged).save(tmp_path / "merged")
    assert ibpc.load(tmp_path / "merged").graph.ties == merged.ties != {}


def test_writing_leaves_nothing_beside(saved, network):
    network.save(saved)
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def begin(folder: Path) -> None:
    """Make a run of an artifact that has ended an epoch."""
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "metrics.jsonl").write_text("{}\n")


def test_saving_keeps_the_training_folder_unless_told(saved, network):
    begin(saved)
    (saved / "training" / "recipe.json").write_text("{}")
    network.save(saved)
    assert artifact.is_trained(saved)
    network.save(saved, artifact.OldRun.DROP)
    assert not artifact.is_trained(saved)


def test_saving_keeps_what_others_put_there(saved, network):
    """As `certify --json compiled/verdicts.json` does."""
    (saved / "verdicts.json").write_text("{}")
    (saved / "figures").mkdir()
    network.save(saved)
    network.save(saved, artifact.OldRun.DROP)
    assert {entry.name for entry in saved.iterdir()} == FILES | {"verdicts.json", "figures"}


def test_an_interrupted_swap_is_finished_at_the_next_load(saved):
    saved.rename(saved.with_name(f".{saved.name}.old"))
    assert ibpc.load(saved).name == "digits_small"
    assert saved.is_dir()


def test_an_interrupted_swap_gives_the_training_folder_back(saved, network):
    old = saved.with_name(f".{saved.name}.old")
    begin(old)
    network.save(saved)
    assert artifact.is_trained(saved) and not old.exists()


def test_a_write_that_stops_halfway_keeps_the_run_that_it_was_to_drop(saved, network, monkeypatch):
    begin(saved)
    rename = Path.rename

    def stops(path, target):
        if path.name.endswith(".partial"):
            raise OSError("killed here")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stops)
    with pytest.raises(ArtifactError, match="cannot be written"):
        network.save(saved, artifact.OldRun.DROP)
    monkeypatch.undo()
    ibpc.load(saved)
    assert artifact.is_trained(saved)


def test_a_run_that_was_to_be_dropped_does_not_come_back(saved, network):
    """The writer was killed when the new folder was in place and the old one still beside it."""
    old = saved.with_name(f".{saved.name}.old")
    begin(old)
    (saved / ".run-dropped").touch()
    network.save(saved)
    assert not artifact.is_trained(saved)
    assert {entry.name for entry in saved.iterdir()} == FILES


def test_killed_writers_leave_a_whole_artifact(saved, tmp_path):
    """Writers that are killed at random moments never damage what is there."""
    script = (
        "import sys, ibpc\nfrom pathlib import Path\n"
        "net = ibpc.load(sys.argv[1])\nprint('ready', flush=True)\n"
        "while True: net.save(Path(sys.argv[1]))\n"
    )
    for delay in (0.0, 0.007, 0.03, 0.055):
        writer = subprocess.Popen([sys.executable, "-c", script, str(saved)], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert ibpc.load(saved).name == "digits_small"


def test_two_writers_take_turns(network, saved, monkeypatch):
    """Without, one of them finds the folder of the other where its own was to go."""
    contents = artifact._contents(network.snapshot())
    monkeypatch.setattr(artifact, "_contents", lambda _: dict(contents))
    recover = artifact._recover
    monkeypatch.setattr(artifact, "_recover", lambda path: (recover(path), time.sleep(0.01)))
    begin(saved)
    (saved / "training" / "recipe.json").write_text("{}")
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                for _ in range(15):
                    network.save(saved)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert ibpc.load(saved).name == "digits_small"
    assert artifact.is_trained(saved)
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_what_a_killed_writer_left_is_swept_away(saved, network):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, theirs, other = (
        saved.with_name(f".{saved.name}{name}.partial")
        for name in (f".{dead.pid}", f".{os.getppid()}", f"2.{dead.pid}")
    )
    for folder in (mine, theirs, other):
        folder.mkdir()
    network.save(saved)
    assert [folder.exists() for folder in (mine, theirs, other)] == [False, True, True]


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_truncated_file_is_refused(saved, name):
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=name):
        ibpc.load(saved)


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_flipped_bit_is_refused(saved, name, share):
    data = bytearray((saved / name).read_bytes())
    data[int(share * len(data))] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged or changed"):
        ibpc.load(saved)


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_a_missing_file_is_refused(saved, name):
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: cannot be read"):
        ibpc.load(saved)


def rehashed(saved: Path, name: str, data: bytes) -> None:
    """Replace a file and its hash: what an attacker can do."""
    (saved / name).write_bytes(data)
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"][name] = sha256_of(data)
    (saved / "manifest.json").write_text(json.dumps(manifest))


def test_attributes_that_came_later_have_their_defaults(tmp_path):
    """Gelu of an artifact that was written before it said whether its numbers are exact."""
    layers = [{"type": "Linear", "out_features": 3}, {"type": "GELU"}]
    spec = {"ibpc": 1, "name": "old", "input": {"shape": [4]}, "classes": 3, "layers": layers}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    network = ibpc.compile(tmp_path / "spec.json")
    network.save(tmp_path / "old")
    graph = json.loads((tmp_path / "old" / "graph.json").read_text())
    (node,) = (node for node in graph["nodes"] if node["operator"] == "Gelu")
    assert node["attributes"].pop("constants") == "exact"
    rehashed(tmp_path / "old", "graph.json", json.dumps(graph).encode())
    assert ibpc.load(tmp_path / "old").graph.to_json() == network.graph.to_json()


def test_a_pickle_in_place_of_weights_is_never_run(saved, tmp_path):
    mark = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    rehashed(saved, "weights.safetensors", pickle.dumps(Payload()))
    with pytest.raises(ArtifactError, match="damaged file"):
        ibpc.load(saved)
    assert not mark.exists()


def test_listings_are_not_run(saved):
    rehashed(saved, "nominal.py.txt", b"raise SystemExit('ran')")
    assert ibpc.load(saved).name == "digits_small"


@pytest.mark.parametrize(
    "edit",
    [
        lambda graph: graph["nodes"].pop(),
        lambda graph: graph["nodes"][1].update(operator="Konv"),
        lambda graph: graph["nodes"][1].update(shape=[-1, 3, 3, 3]),
        lambda graph: graph.update(outputs=["nothing"]),
        lambda graph: graph.update(nodes={}),
        lambda graph: graph.pop("hints"),
        lambda graph: graph.update(format=99),
        lambda graph: graph.update(ties={"conv1.weight": "gone"}),
        lambda graph: graph["nodes"][1].update(attributes=[]),
        lambda graph: graph["nodes"][1]["attributes"].update(strides="x"),
        lambda graph: graph["nodes"].reverse(),
        lambda graph: graph["nodes"][1].update(shape=[float("inf")]),
        lambda graph: graph.update(name=""),
        lambda graph: graph.update(name=None),
    ],
)
def test_an_impossible_graph_is_refused(saved, edit):
    graph = json.loads((saved / "graph.json").read_text())
    edit(graph)
    rehashed(saved, "graph.json", json.dumps(graph).encode())
    with pytest.raises(ArtifactError):
        ibpc.load(saved)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda weight: weight.double(), "numbers of type float64; expected float32"),
        (lambda weight: weight.int(), "numbers of type int32; expected float32"),
        (lambda weight: weight.to(torch.complex64), "numbers of type complex64"),
        (lambda weight: weight / 0, "NaN or infinity; expected finite numbers"),
    ],
)
def test_weights_that_no_frontend_makes_are_refused(saved, edit, words):
    state = load((saved / "weights.safetensors").read_bytes())
    rehashed(saved, "weights.safetensors", save(state | {"conv1.weight": edit(state["conv1.weight"])}))
    with pytest.raises(ArtifactError, match=f"weights.safetensors: conv1.weight: {words}"):
        ibpc.load(saved)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_pipe_and_a_giant_are_refused(saved, name):
    """Reading the one would wait for ever, reading the other would take all memory."""
    (saved / name).unlink()
    with (saved / name).open("wb") as stream:
        stream.truncate(2**36)
    with pytest.raises(ArtifactError, match=f"{name}: .*where .* is the most"):
        ibpc.load(saved)
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(ArtifactError, match=f"{name}: .*not a regular file"):
        ibpc.load(saved)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"format": 1}', '{"format": 2}', "\xff", "[" * 100_000, "9" * 5_000]
)
def test_an_impossible_manifest_is_refused(saved, text):
    (saved / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError):
        ibpc.load(saved)


def test_a_graph_with_an_endless_number_is_refused(saved):
    rehashed(saved, "graph.json", b"9" * 5_000)
    with pytest.raises(ArtifactError, match="damaged"):
        artifact.load(saved)


def test_a_manifest_names_its_source_in_words(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["source"]["path"] = 7
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="malformed source"):
        ibpc.load(saved)


@pytest.mark.parametrize("name", ["../secret", "\0"])
def test_a_manifest_cannot_point_outside(saved, name):
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="malformed list of files"):
        ibpc.load(saved)


# ── places ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(ArtifactError, match="ibpc compile"):
        ibpc.load(tmp_path / "nothing")


def test_a_foreign_folder_is_never_overwritten(network, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="other files"):
        network.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_files_leave_nothing_half_written(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, other = (tmp_path / f".a.json{name}.{dead.pid}.partial" for name in ("", ".b"))
    left.touch()
    other.touch()
    files.write_atomically(tmp_path / "a.json", b"{}")
    assert sorted(tmp_path.iterdir()) == sorted((other, tmp_path / "a.json"))

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "a.json", b"[]")
    assert sorted(tmp_path.iterdir()) == sorted((other, tmp_path / "a.json"))


def test_what_cannot_be_written_says_why(network, tmp_path, monkeypatch):
    (tmp_path / "afile").write_text("")
    with pytest.raises(ArtifactError, match="afile is not a folder"):
        files.write_atomically(tmp_path / "afile" / "x.json", b"")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="a link"):
        network.save(tmp_path / "link")

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "_write_folder", fill)
    with pytest.raises(ArtifactError, match="No space left on device; expected a place with room"):
        network.save(tmp_path / "compiled")


def test_a_file_in_the_way_is_refused(network, tmp_path):
    (tmp_path / "compiled").write_text("")
    with pytest.raises(ArtifactError, match="not a folder"):
        network.save(tmp_path / "compiled")


def test_a_place_where_nothing_can_be_renamed_is_refused_before_any_work(saved, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == saved)
    with pytest.raises(ArtifactError, match="mount point.*choose one inside"):
        artifact.check_place(saved)
    monkeypatch.undo()
    for closed in (saved, saved.parent):
        monkeypatch.setattr(os, "access", lambda path, _, closed=closed: path != closed)
        with pytest.raises(ArtifactError, match=f"{closed} cannot be written"):
            artifact.check_place(saved)


def test_a_place_that_cannot_be_written_is_one_error(network):
    with pytest.raises(ArtifactError, match="cannot be written"):
        network.save(Path("/proc/compiled"))
