import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.hostfile import read_hostfile, unreachable, usable, write_hostfile
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
    ("slots", "micro_batch", "hosts"),
    [
        ({"a": 8, "b": 8, "c": 8}, 192, "abc"),
        (dict.fromkeys("abcdefg", 8), 192, "abcdef"),  # 192 does not divide by 56
        ({"a": 8, "b": 4}, 16, "a"),
    ],
)
def test_as_many_nodes_are_used_as_the_batch_divides_over(slots, micro_batch, hosts):
    assert list(usable(slots, micro_batch)) == list(hosts)


def test_a_batch_that_no_number_of_nodes_can_share_is_refused():
    with pytest.raises(UserError, match="micro-batch of 9"):
        usable({"a": 8, "b": 8}, 9)
