from pathlib import Path

import numpy as np
import pytest

from fewbits.errors import OutputError

torch = pytest.importorskip("torch")

from fewbits.improvement.torch_cache import Cache, open_cache  # noqa: E402

KB = 1024


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def files(cache: Cache) -> list[Path]:
    return sorted(cache.folder.iterdir())


def test_no_more_than_the_ceiling_is_held(tmp_path):
    cache = Cache(10 * KB, tmp_path)
    for batch in range(5):
        cache.put("float", "a", batch, image(KB, seed=batch))  # 4 KB each
        assert cache.held <= cache.ceiling
    assert cache.held == cache.most_held == 8 * KB
    assert cache.spilled == 12 * KB
    assert len(files(cache)) == 3
    for batch in range(5):
        torch.testing.assert_close(cache.get("float", "a", batch), image(KB, seed=batch), rtol=0, atol=0)


def test_room_that_was_freed_is_used_again(tmp_path):
    cache = Cache(4 * KB, tmp_path)
    cache.put("float", "a", 0, image(KB))
    cache.put("float", "b", 0, image(KB))
    cache.drop("float", "a", 0)
    assert cache.held == 0
    cache.put("quantized", "a", 0, image(KB))
    assert cache.held == 4 * KB
    assert cache.spilled == 4 * KB


def test_drop_removes_the_file_and_forgets(tmp_path):
    cache = Cache(1, tmp_path)
    cache.put("float", "a", 0, image(8))
    cache.put("float", "a", 1, image(8))
    cache.drop("float", "a", 0)
    assert len(files(cache)) == 1
    with pytest.raises(KeyError):
        cache.get("float", "a", 0)
    cache.drop("float", "a", 0)  # what is not there may be dropped
    assert cache.held == 0


@pytest.mark.parametrize("ceiling", [1, 10**6])
def test_put_replaces(tmp_path, ceiling):
    cache = Cache(ceiling, tmp_path)
    cache.put("float", "a", 0, image(8))
    cache.put("float", "a", 0, image(4, seed=1))
    torch.testing.assert_close(cache.get("float", "a", 0), image(4, seed=1), rtol=0, atol=0)
    assert cache.held == (16 if ceiling > 1 else 0)
    assert len(files(cache)) == (0 if ceiling > 1 else 1)


def test_streams_names_and_batches_are_apart(tmp_path):
    cache = Cache(KB, tmp_path)
    keys = [(stream, name, batch) for stream in ("float", "quantized") for name in "ab" for batch in (0, 1)]
    for i, key in enumerate(keys):
        cache.put(*key, torch.full((64,), float(i)))
    assert [float(cache.get(*key)[0]) for key in keys] == list(range(8))


SPECIAL = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45])
VALUES = {
    "plain": image(2, 3, 4, 5),
    "channels last": image(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "one channel": image(2, 1, 4, 5).contiguous(memory_format=torch.channels_last),
    "one pixel": image(2, 3, 1, 1).contiguous(memory_format=torch.channels_last),
    "turned": image(2, 3, 4).transpose(1, 2),
    "turned, rank 4": image(2, 3, 4, 5).permute(3, 2, 1, 0),
    "expanded": image(1, 3).expand(4, 3),
    "part": image(8, 3, 4, 5)[2:4],
    "part of channels": image(2, 8, 4, 5).contiguous(memory_format=torch.channels_last)[:, :4],
    "rank 5": image(1, 2, 3, 2, 2),
    "scalar": torch.tensor(2.5),
    "integers": torch.arange(6).reshape(2, 3),
    "booleans": torch.tensor([True, False]),
    "half": image(3).half(),
    "special": SPECIAL,
}


@pytest.mark.parametrize("name", list(VALUES))
def test_files_restore_bits_and_layout(tmp_path, name):
    value = VALUES[name]
    there, filed = Cache(10**6, tmp_path), Cache(1, tmp_path)
    for cache in (there, filed):
        cache.put("float", "a", 0, value)
    assert files(filed)
    kept, found = there.get("float", "a", 0), filed.get("float", "a", 0)
    assert found.dtype == kept.dtype == value.dtype
    assert found.shape == value.shape
    assert found.contiguous().numpy().tobytes() == kept.contiguous().numpy().tobytes()
    assert found.contiguous().numpy().tobytes() == value.contiguous().numpy().tobytes()
    for layout in (torch.contiguous_format, torch.channels_last) if value.ndim == 4 else (torch.contiguous_format,):
        assert found.is_contiguous(memory_format=layout) == kept.is_contiguous(memory_format=layout)


def test_channels_last_stays_so(tmp_path):
    cache = Cache(1, tmp_path)
    cache.put("float", "a", 0, VALUES["channels last"])
    found = cache.get("float", "a", 0)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not found.is_contiguous()


def test_a_part_does_not_keep_the_whole_alive(tmp_path):
    cache = Cache(10**6, tmp_path)
    cache.put("float", "a", 0, VALUES["part"])
    assert cache.get("float", "a", 0).untyped_storage().nbytes() == cache.held == VALUES["part"].nbytes


def test_gradients_are_not_kept(tmp_path):
    cache = Cache(10**6, tmp_path)
    cache.put("float", "a", 0, image(3).requires_grad_(True) * 2)
    assert not cache.get("float", "a", 0).requires_grad


def test_an_empty_tensor_needs_no_room(tmp_path):
    cache = Cache(1, tmp_path)
    cache.put("float", "a", 0, torch.zeros(0, 3))
    assert cache.get("float", "a", 0).shape == (0, 3)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    cache = Cache(1, tmp_path)
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match=r"Cannot keep activations .*No space left.*TMPDIR.*memory ceiling"):
        cache.put("float", "a", 0, image(8))


def test_open_cache_leaves_nothing_behind():
    with open_cache(1) as cache:
        cache.put("float", "a", 0, image(8))
        assert files(cache)
    assert not cache.folder.exists()
