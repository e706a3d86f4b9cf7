"""How much memory there is: the machine's, or less where a control group says so."""

from engine.runs.memory import memory_bytes


def a_system(root, *, group="0::/app", files=()):
    for path, text in (("proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n"), ("proc/self/cgroup", f"{group}\n"), *files):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_it_is_the_machine_s(tmp_path):
    assert memory_bytes("cpu", a_system(tmp_path)) == 2048 * 1024


def test_a_group_s_limit_counts_where_it_is_lower(tmp_path):
    files = [("sys/fs/cgroup/app/memory.max", "1000000\n")]
    assert memory_bytes("cpu", a_system(tmp_path, files=files)) == 1_000_000


def test_a_group_without_a_limit_leaves_the_machine_s(tmp_path):
    assert memory_bytes("cpu", a_system(tmp_path, files=[("sys/fs/cgroup/app/memory.max", "max\n")])) == 2048 * 1024


def test_the_older_groups_are_read_as_well(tmp_path):
    files = [("sys/fs/cgroup/memory/app/memory.limit_in_bytes", "500000\n")]
    assert memory_bytes("cpu", a_system(tmp_path, group="5:cpu,memory:/app", files=files)) == 500_000


def test_a_system_that_says_nothing_gives_nothing(tmp_path):
    assert memory_bytes("cpu", tmp_path) is None
