"""The module in loops of users' own: checkpoints, autocast, recomputation, compile, copies, other processes."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from fewbits.errors import DataError, SpecError

torch = pytest.importorskip("torch")

from trainable_cases import assert_same, feeds, outputs, train, trainable  # noqa: E402

from fewbits.training.torch_trainable import Trainable  # noqa: E402

HERE = Path(__file__).parent
CASES = "import sys, torch; sys.path.insert(0, sys.argv[1]); torch.set_num_threads(1)\n"


pytestmark = pytest.mark.usefixtures("one_thread")


def loss_of(net: torch.nn.Module) -> torch.Tensor:
    return sum(value.float().square().mean() for value in net(feeds()).values())


def gradients(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    loss_of(net.train()).backward()
    return {name: value.grad for name, value in net.named_parameters() if value.requires_grad}


def steps(net: Trainable, optimizer: torch.optim.Optimizer, count: int) -> None:
    net.train()
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(net).backward()
        optimizer.step()


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CASES + code, str(HERE), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


RESUMED = """
from test_torch_loops import steps
from trainable_cases import trainable
net = trainable("w4a8")
optimizer = torch.optim.Adam(net.parameter_groups(1e-3))
saved = torch.load(sys.argv[2], weights_only=True)
net.load_state_dict(saved["module"])
optimizer.load_state_dict(saved["optimizer"])
steps(net, optimizer, 3)
torch.save(net.state_dict(), sys.argv[3])
"""


def test_a_new_process_goes_on_where_training_was_saved_bit_for_bit(tmp_path):
    net = trainable("w4a8")
    optimizer = torch.optim.Adam(net.parameter_groups(1e-3))
    steps(net, optimizer, 3)
    torch.save({"module": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    half = {name: value.clone() for name, value in net.state_dict().items()}
    steps(net, optimizer, 3)
    python(RESUMED, str(tmp_path / "half.pt"), str(tmp_path / "whole.pt"))
    found = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert list(found) == list(net.state_dict())
    for name, value in net.state_dict().items():
        assert torch.equal(found[name], value), name
    assert any(not torch.equal(half[name], value) for name, value in found.items())


def test_the_state_has_the_names_of_the_graph_and_nothing_else():
    net = trainable("w4a8")
    keys = {"codes", *(f"graph.{name}" for name, _ in net.graph.named_values())}
    parts = {f"quantizers.{key}." for key, grid in net.plan.grids.items() if grid.scaled_by is None}
    rest = [key for key in net.state_dict() if key not in keys]
    assert keys <= net.state_dict().keys()
    assert {key.rpartition(".")[0] + "." for key in rest} == parts
    assert {key.rpartition(".")[2] for key in rest} == {"ratio", "zero_share", "start_scale", "start_zero_point"}


@pytest.mark.parametrize("is_part", [False, True])
def test_the_state_of_another_precision_is_refused_though_its_shapes_are_the_same(is_part):
    other, net = trainable("w8a8"), trainable("w4a8")
    shapes = [{k: v.shape for k, v in one.state_dict().items() if "zero_share" not in k} for one in (other, net)]
    assert shapes[0] == shapes[1]
    state = other.state_dict()
    if is_part:
        state, net = {f"0.{key}": value for key, value in state.items()}, torch.nn.Sequential(net)
    with pytest.raises(SpecError, match=r"The saved grid 'w1' has the codes -127 to 127, and this module's -7 to 7"):
        net.load_state_dict(state)


def test_the_state_of_another_network_is_refused():
    net = trainable("w4a8")
    state = {**net.state_dict(), "codes": torch.zeros(3, 2)}
    with pytest.raises(SpecError, match=r"has 3 grids, and this module \d+: make it with the precision"):
        net.load_state_dict(state)


def test_weights_alone_go_from_one_precision_to_another():
    other, net = trainable("w8a8"), trainable("w4a8")
    train(other, steps=2)
    net.graph.load_state_dict(other.graph.state_dict())
    assert torch.equal(net.graph.known("w1"), other.graph.known("w1"))


@pytest.mark.parametrize("count", [1, 3, 100])
def test_segments_give_the_same_bits_and_gradients(count):
    plain, net = trainable("w4a8"), trainable("w4a8")
    net.segments = count
    wanted, found = gradients(plain), gradients(net)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(value, found[name]), name
    assert_same(outputs(net.eval()), outputs(plain.eval()))
    with pytest.raises(DataError, match="lack the input 'image'"):
        net.train()({})


def saved_bytes(net: Trainable) -> int:
    """Return the bytes that the backward pass keeps, parameters and what has a storage in common counted once."""
    own = {value.untyped_storage().data_ptr() for value in (*net.parameters(), *net.buffers())}
    kept: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = loss_of(net.train())
    assert loss.requires_grad
    return sum(kept.values())


def test_segments_keep_less():
    net = trainable("w4a8")
    whole = saved_bytes(net)
    net.segments = 4
    assert saved_bytes(net) < 0.5 * whole


def test_checkpointing_the_whole_module_works_too():
    plain, net = trainable("w4a8"), trainable("w4a8").train()
    wanted = gradients(plain)
    found = torch.utils.checkpoint.checkpoint(net, feeds(), use_reentrant=False)
    sum(value.square().mean() for value in found.values()).backward()
    for name, value in net.named_parameters():
        if value.requires_grad:
            assert torch.equal(value.grad, wanted[name]), name


@pytest.mark.parametrize("count", [0, 3])
def test_autocast_computes_in_bfloat16_and_keeps_grids_and_parameters(count):
    exact, net = trainable("w4a8"), trainable("w4a8").train()
    net.segments = count
    optimizer = torch.optim.Adam(net.parameter_groups(1e-3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(feeds())
        loss = sum(value.float().square().mean() for value in found.values())
    assert found["y"].dtype == torch.bfloat16
    loss.backward()
    wanted = gradients(exact)
    for value in net.parameters():
        if value.requires_grad:
            assert value.dtype == value.grad.dtype == torch.float32
    mine = torch.cat([net.graph.known(f"w{i}").grad.flatten() for i in range(1, 6)])
    theirs = torch.cat([wanted[f"graph.w{i}"].flatten() for i in range(1, 6)])
    assert torch.cosine_similarity(mine, theirs, dim=0) > 0.98
    optimizer.step()
    assert net.eval()(feeds())["y"].dtype == torch.float32


@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_other_types_are_refused_and_change_nothing(change):
    net = trainable("w4a8")
    for one in (net, torch.nn.Sequential(net)):
        with pytest.raises(SpecError, match=r"stays in float32, .* and cannot become torch\..*: use torch\.autocast"):
            getattr(one, change)()
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32}
    assert_same(outputs(net.float().to("cpu", torch.float32).eval()), outputs(trainable("w4a8").eval()))


def test_the_module_goes_to_other_devices():
    net = trainable("w4a8").to("meta")
    assert {value.device.type for value in net.state_dict().values()} == {"meta"}


def test_averaged_copies_are_modules_of_their_own():
    net = trainable("w4a8")
    averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=averaging, use_buffers=True)
    optimizer = torch.optim.Adam(net.parameter_groups(3e-3))
    name = "quantizers.w1.ratio"
    wanted = None
    for _ in range(3):
        steps(net, optimizer, 1)
        average.update_parameters(net)
        now = dict(net.named_parameters())[name].detach()
        wanted = now.clone() if wanted is None else 0.5 * wanted + 0.5 * now
    torch.testing.assert_close(dict(average.module.named_parameters())[name].detach(), wanted)
    assert average.module.finish().encodings["w1"].scale.tobytes() != net.finish().encodings["w1"].scale.tobytes()
    trainable("w4a8").load_state_dict(average.module.state_dict())
    assert outputs(average.module.eval())["y"].tobytes() != outputs(net.eval())["y"].tobytes()


def test_a_copy_goes_on_training_alone():
    net = trainable("w4a8")
    copied = copy.deepcopy(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    steps(copied, torch.optim.SGD(copied.parameter_groups(1e-2)), 2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in copied.state_dict().items())
    groups = {id(value) for group in net.parameter_groups(1e-3) for value in group["params"]}
    assert not groups & {id(value) for group in copied.parameter_groups(1e-3) for value in group["params"]}


COMPILED = """
import warnings
from test_torch_loops import gradients, outputs
from trainable_cases import assert_same, trainable
warnings.simplefilter("ignore")
plain, net = trainable("w4a8"), trainable("w4a8")
compiled = torch.compile(net, backend="aot_eager")
wanted, found = gradients(plain), gradients(compiled)
for name, value in wanted.items():
    torch.testing.assert_close(found["_orig_mod." + name], value, rtol=1e-5, atol=1e-7)
assert_same(outputs(compiled.eval()), outputs(plain.eval()))
try:
    torch.compile(trainable("w4a8").train(), backend="eager", fullgraph=True)(torch.zeros(2, 3, 8, 8))
except torch._dynamo.exc.TorchDynamoException:
    print("refused")
"""


@pytest.mark.slow
def test_compile_computes_the_same_in_pieces_and_not_in_one():
    assert python(COMPILED).split()[-1:] == ["refused"]


PARALLEL = """
import os
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from test_torch_loops import loss_of
from trainable_cases import feeds, trainable
store, rank, world, output = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
net = DistributedDataParallel(trainable("w4a8").train())
optimizer = torch.optim.SGD(net.module.parameter_groups(1e-2))
for _ in range(3):
    part = {name: value[rank::world] for name, value in feeds().items()}
    optimizer.zero_grad()
    net(part)["y"].square().mean().backward()
    optimizer.step()
torch.save(net.module.state_dict(), f"{output}.{rank}")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_processes_that_share_the_samples_train_as_one(world, tmp_path):
    store, output = tmp_path / "store", tmp_path / "state"
    commands = [
        [sys.executable, "-c", CASES + PARALLEL, str(HERE), str(store), str(rank), str(world), str(output)]
        for rank in range(world)
    ]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for one in started:
        _, said = one.communicate(timeout=300)
        assert one.returncode == 0, said[-3000:]
    states = [torch.load(f"{output}.{rank}", weights_only=True) for rank in range(world)]
    alone = trainable("w4a8").train()
    optimizer = torch.optim.SGD(alone.parameter_groups(1e-2))
    for _ in range(3):
        optimizer.zero_grad()
        alone(feeds())["y"].square().mean().backward()
        optimizer.step()
    start = trainable("w4a8").state_dict()
    for name, value in alone.state_dict().items():
        assert all(torch.equal(states[0][name], state[name]) for state in states), name
        moved = float((value - start[name]).abs().max())
        assert float((value - states[0][name]).abs().max()) <= 0.02 * moved + 1e-6, name
    assert any(not torch.equal(value, start[name]) for name, value in states[0].items())
