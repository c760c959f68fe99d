import json
import os

import pytest
import tensorflow as tf

from selfie_tf.errors import UserError
from selfie_tf.storage.checkpoints import Checkpointer, write_atomically
from selfie_tf.storage.files import read_points


def make(directory, keep=3, value=0.0, **more):
    variable = tf.Variable([value] * 1000)
    return variable, Checkpointer(str(directory), tf.train.Checkpoint(v=variable, **more), keep)


def save_steps(directory, *steps, keep=3):
    variable, checkpointer = make(directory, keep)
    for step in steps:
        variable.assign([float(step)] * 1000)
        checkpointer.save(step)


def restored(directory):
    variable, checkpointer = make(directory)
    step = checkpointer.restore()
    assert (variable.numpy() == step).all()
    return step


def test_the_newest_is_restored_and_only_so_many_kept(tmp_path):
    assert restored(tmp_path) == 0
    save_steps(tmp_path, 5, 10, 100, 20, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]
    assert restored(tmp_path) == 100


def test_a_checkpoint_without_manifest_does_not_count_and_is_removed(tmp_path):
    save_steps(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    assert restored(tmp_path) == 1
    save_steps(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "lose", "manifest"])
def test_damage_is_noticed_and_the_one_before_taken(tmp_path, damage, caplog):
    save_steps(tmp_path, 1, 2)
    newest = tmp_path / "step-00000002"
    data = next(newest.glob("state.data*"))
    content = data.read_bytes()
    if damage == "flip":
        data.write_bytes(content[:99] + bytes([content[99] ^ 4]) + content[100:])
    elif damage == "truncate":
        data.write_bytes(content[:-1])
    elif damage == "lose":
        (newest / "state.index").unlink()
    else:
        (newest / "manifest.json").write_text("{")
    assert restored(tmp_path) == 1
    assert "damaged" in caplog.text and "fell back to the checkpoint of step 1" in caplog.text


def test_notes_are_those_of_the_checkpoint_that_is_restored(tmp_path):
    checkpointer = make(tmp_path)[1]
    checkpointer.save(1, {"logged": 0, "metrics": [[0.1, 3.0]]})
    checkpointer.save(2, {"logged": 2})
    checkpointer = make(tmp_path)[1]
    assert checkpointer.notes == {}
    assert checkpointer.restore() == 2 and checkpointer.notes == {"logged": 2}
    notes = tmp_path / "step-00000002" / "state-notes.json"
    notes.write_text(notes.read_text().replace("2", "1"))
    assert checkpointer.restore() == 1
    assert checkpointer.notes == {"logged": 0, "metrics": [[0.1, 3.0]]}
    save_steps(tmp_path, 3)  # as versions before the notes did
    assert checkpointer.restore() == 3 and checkpointer.notes == {}


def test_a_damaged_step_can_be_saved_again(tmp_path):
    save_steps(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "state.index").unlink()
    save_steps(tmp_path, 2)
    assert restored(tmp_path) == 2


def test_all_damaged_is_an_error_and_not_a_restart(tmp_path):
    save_steps(tmp_path, 1, 2)
    for index in tmp_path.glob("*/state.index"):
        index.unlink()
    with pytest.raises(UserError, match="all 2 checkpoints .* are damaged"):
        make(tmp_path)[1].restore()


@pytest.mark.parametrize("kind", ["missing", "superfluous", "other shape"])
def test_another_model_is_refused(tmp_path, kind):
    save_steps(tmp_path, 1)
    if kind == "missing":
        checkpointer = make(tmp_path, w=tf.Variable(1.0))[1]
    elif kind == "superfluous":
        checkpointer = Checkpointer(str(tmp_path), tf.train.Checkpoint())
    else:
        checkpointer = Checkpointer(str(tmp_path), tf.train.Checkpoint(v=tf.Variable([1.0])))
    with pytest.raises(UserError, match="belongs to another model"):
        checkpointer.restore()


def test_workers_beside_the_chief_leave_nothing(tmp_path):
    checkpoint = tf.train.Checkpoint(v=tf.Variable([1.0]))
    Checkpointer(str(tmp_path), checkpoint, scratch="scratch-worker-1").save(7)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    path, rename = str(tmp_path / "page.html"), tf.io.gfile.rename

    def write_in_between(*args, **kwargs):
        monkeypatch.setattr(tf.io.gfile, "rename", rename)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        write_atomically(path, "other")
        assert (tmp_path / "page.html").read_text() == "other"
        rename(*args, **kwargs)

    monkeypatch.setattr(tf.io.gfile, "rename", write_in_between)
    write_atomically(path, "one")
    assert (tmp_path / "page.html").read_text() == "one"
    assert os.listdir(tmp_path) == ["page.html"]


def test_log_points_survive_what_a_power_cut_leaves(tmp_path):
    lines = [b'{"step": 1}', b"\0\0\xff\xfe", b'{"step": "x"}', b'{"step": 2}', b'{"st']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert [point["step"] for point in read_points(str(tmp_path), "metrics.jsonl")] == [1, 2]


def test_write_atomically_replaces_and_leaves_no_scratch(tmp_path):
    path = tmp_path / "x.json"
    for value in (1, 2):
        write_atomically(str(path), json.dumps(value))
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"] and path.read_text() == "2"
    write_atomically(str(path), b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
