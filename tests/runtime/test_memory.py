import pytest

from fewbits.runtime import memory

V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.fixture(params=[V1, V2], ids=["v1", "v2"])
def group(request, tmp_path, monkeypatch):
    """A container's group of processes: a function that writes its limit, its use and its idle pages of files."""
    limit, used, idle = request.param
    monkeypatch.setattr(memory, "_GROUPS", ((str(tmp_path / "none"), *request.param), (str(tmp_path), *request.param)))

    def write(most: object, now: int, pages: int | None) -> None:
        (tmp_path / limit).write_text(f"{most}\n")
        (tmp_path / used).write_text(f"{now}\n")
        if pages is not None:
            (tmp_path / "memory.stat").write_text(f"active_file 5\n{idle} {pages}\nrecent_{idle} 7\n")

    return write


def test_available_mb_counts_idle_pages_of_files_as_free(group):
    group(9_000_000, 8_000_000, 3_000_000)
    assert memory.available_mb() == 4.0


def test_available_mb_goes_by_use_where_a_group_does_not_tell_its_pages(group):
    group(9_000_000, 8_000_000, None)
    assert memory.available_mb() == 1.0


def test_available_mb_is_never_below_zero(group):
    group(1_000_000, 8_000_000, 3_000_000)
    assert memory.available_mb() == 0.0


def test_available_mb_is_the_machines_where_a_group_has_no_limit(group):
    group("max", 8_000_000, 0)
    machine = memory.available_mb()
    assert machine is None or machine > 9.0
