"""Comparing benchmarks, drawing them, and adding up a profile."""

import json

import pytest

from selfie_tf.benchmarks import report
from selfie_tf.benchmarks.profile import operations
from selfie_tf.errors import UserError

OLD = {
    "hardware": "CPU",
    "batch_size": 64,
    "op_determinism": True,
    "input_images_per_second_up_to": {"read": 800.0, "decode": 250},
    "float32": {"step_images_per_second": 20.0, "startup_seconds": {"data": 0.0, "sum": 16.0}},
    "workers": [{"replicas": 2, "to_one_replica": 0.5}, {"replicas": 4, "to_one_replica": 0.25}],
    "one_replica_images_per_second": [10.0, 20.0],
}
NEW = {
    "hardware": "GPU",
    "batch_size": 64,
    "op_determinism": False,
    "input_images_per_second_up_to": {"read": 600.0, "decode": 1000, "cut": 3.0},
    "float32": {"step_images_per_second": 25.0, "startup_seconds": {"data": 1.0, "sum": 8.0}},
    "workers": [{"replicas": 4, "to_one_replica": 0.75}],
    "one_replica_images_per_second": [15.0, 15.0],
    "ratios": {"batch_size": 7.0},
}
RATIOS = {
    "batch_size": 1.0,
    "input_images_per_second_up_to.read": 0.75,
    "input_images_per_second_up_to.decode": 4.0,
    "float32.step_images_per_second": 1.25,
    "float32.startup_seconds.sum": 0.5,
    "workers.4.replicas": 1.0,
    "workers.4.to_one_replica": 3.0,
    "one_replica_images_per_second.0": 1.5,
    "one_replica_images_per_second.1": 0.75,
}


def test_ratios_of_two_files(tmp_path):
    for name, result in (("old", OLD), ("new", NEW)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    new, old = (report.read(str(tmp_path / f"{name}.json")) for name in ("new", "old"))
    assert report.compare(new, old) == RATIOS


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "cannot be read: No such file"), ("{", "not JSON"), ("[1]", "not what"), ("{}", "not")],
)
def test_a_file_that_cannot_be_compared_with(content, expected, tmp_path):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        report.read(str(path))
    assert expected in str(error.value) and f"--compare={path}" in str(error.value)


def test_the_table_shows_each_number_with_its_ratio():
    assert report.table(NEW | {"ratios": {}}, RATIOS).splitlines() == [
        "hardware        GPU",
        "batch size      64 (1.00)",
        "op determinism  False",
        "input images per second up to",
        "  read    600 (0.75)",
        "  decode  1,000 (4.00)",
        "  cut     3",
        "float32",
        "  step images per second  25 (1.25)",
        "  startup seconds",
        "    data  1",
        "    sum   8 (0.50)",
        "workers",
        "     replicas  to one replica",
        "  4  4 (1.00)     0.75 (3.00)",
        "one replica images per second",
        "  0  15 (1.50)",
        "  1  15 (0.75)",
    ]


def make_trace():
    """A trace of two threads, in which operations contain each other."""
    xplane_pb2 = pytest.importorskip("tensorflow.tsl.profiler.protobuf.xplane_pb2")
    space = xplane_pb2.XSpace()
    names = {
        1: "EagerExecute: __inference_step_1",
        2: "StatefulPartitionedCall:StatefulPartitionedCall",
        3: "model/conv/Conv2D:Conv2D",
        4: "gradient/mul:Mul",
        5: "ThreadPool::Run",
        6: "Adam/mul_1:Mul",
    }
    threads = [
        # (event, start, duration) in seconds
        [(1, 0, 100), (2, 10, 50), (3, 10, 20), (4, 40, 10), (3, 70, 5)],
        [(5, 0, 100), (6, 20, 15)],
    ]
    for name in ("/host:CPU", "/host:metadata"):
        plane = space.planes.add(name=name)
        for number, text in names.items():
            plane.event_metadata[number].name = text
        for thread in threads:
            line = plane.lines.add()
            for number, start, duration in reversed(thread):
                times = {"offset_ps": start * 10**12, "duration_ps": duration * 10**12}
                line.events.add(metadata_id=number, **times)
    return space.SerializeToString()


def test_operations_of_a_trace_count_without_those_inside():
    assert operations(make_trace()) == {
        "StatefulPartitionedCall": (20, 1),
        "Conv2D": (25, 2),
        "Mul": (25, 2),
    }
