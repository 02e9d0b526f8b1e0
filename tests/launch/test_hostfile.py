import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.hostfile import Batch, read_hostfile, unreachable, usable, write_hostfile
from mri_fm.errors import UserError

ROOT = Path(__file__).parents[2]
NAMES = st.from_regex(r"[a-z][a-z0-9.\-]{0,12}", fullmatch=True)


@given(st.dictionaries(NAMES, st.integers(1, 64), min_size=1))
def test_what_is_written_is_read(tmp_path_factory, slots):
    path = tmp_path_factory.mktemp("hosts") / "hostfile"
    write_hostfile(path, slots)
    assert list(read_hostfile(path).items()) == list(slots.items())


def test_the_example_and_comments_are_read(tmp_path):
    assert read_hostfile(ROOT / "launch" / "hostfile.example") == {f"worker-{n}": 8 for n in range(1, 9)}
    path = tmp_path / "hostfile"
    path.write_text("# nodes\n\na slots=2  # the first\n10.0.0.2\tslots=4\n")
    assert read_hostfile(path) == {"a": 2, "10.0.0.2": 4}


def test_deepspeed_reads_it_alike(tmp_path):
    from deepspeed.launcher.runner import fetch_hostfile

    path = tmp_path / "hostfile"
    write_hostfile(path, {"a": 2, "10.0.0.2": 4})
    assert dict(fetch_hostfile(str(path))) == read_hostfile(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a slots=2\nb slots=2\na slots=2\n", r":3: a stands twice"),
        ("a\n", r":1: `a` is not of the form"),
        ("a slots=two\n", "slots=two"),
        ("a slots=0\n", "slots=0"),
        ("a slots = 2\n", "slots = 2"),
        ("a b slots=2\n", "a b slots=2"),
        ("# nothing\n", "names no host"),
    ],
)
def test_a_wrong_hostfile_is_refused_by_line(tmp_path, text, named):
    path = tmp_path / "hostfile"
    path.write_text(text)
    with pytest.raises(UserError, match=named) as caught:
        read_hostfile(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no hostfile at"):
        read_hostfile(tmp_path / "nowhere")


def test_hosts_that_ssh_does_not_reach_are_named_with_the_reason(tmp_path, monkeypatch):
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\ncase "$*" in *gone*) echo "No route to host" >&2; exit 255;; esac\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert unreachable(["here", "gone-1", "there"]) == {"gone-1": "No route to host"}
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert unreachable(["here"]) == {"here": "there is no ssh on this machine"}


@pytest.mark.parametrize(
    ("slots", "batch", "hosts", "accumulation"),
    [
        ({"a": 8, "b": 8, "c": 8}, Batch(192, 1), "abc", 1),
        (dict.fromkeys("abcdefg", 8), Batch(192, 1), "abcdef", 1),  # 192 does not divide by 56
        ({"a": 8, "b": 4}, Batch(32, 2), "a", 2),
        ({"a": 8, "b": 8}, Batch(192, 2, most=6), "ab", 2),
        ({"a": 8}, Batch(192, 2, most=6), "a", 4),  # 12 a rank are too many
        ({"a": 8}, Batch(192, 2, most=5), "a", 6),
        ({"a": 8}, Batch(24, 2), "a", 3),  # 12 do not divide by 8
        ({"a": 8, "b": 8}, Batch(8, 1, most=1, sequence=2), "ab", 1),  # eight groups
        ({"a": 4, "b": 4, "c": 4}, Batch(8, 1, sequence=8), "ab", 1),  # twelve ranks do not divide into groups
    ],
)
def test_as_many_nodes_are_used_as_the_batch_divides_over_with_the_fewest_micro_steps(slots, batch, hosts, accumulation):
    used, steps = usable(slots, batch)
    assert (list(used), steps) == (list(hosts), accumulation)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), st.integers(1, 96), st.integers(1, 4), st.integers(0, 8))
def test_ranks_share_the_whole_batch_evenly(slots, size, accumulation, most):
    try:
        used, steps = usable(dict(zip("abcd", slots, strict=False)), Batch(size, accumulation, most))
    except UserError:
        return
    share, rest = divmod(size, steps * sum(used.values()))
    assert rest == 0
    assert 1 <= share <= (most or size)
    assert steps >= accumulation


def test_a_batch_that_no_number_of_nodes_can_share_is_refused():
    with pytest.raises(UserError, match="a batch of 9 in 1 micro-steps divides over no number"):
        usable({"a": 8, "b": 8}, Batch(9, 1))
    with pytest.raises(UserError, match=r"at most 6 samples a rank .*require_constant_batch=true keeps"):
        usable({"a": 8}, Batch(192, 2, most=6, constant=True))
