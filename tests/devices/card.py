"""A pretended card: tensors that say that they lie on it, while their numbers lie on the CPU.

Inside `Card`, each operation checks that its tensors lie where a real card demands, and raises `WrongDevice` with the
operation's name where they do not. Results are computed on the CPU. What makes the CPU wait for the card is counted.
"""
from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from . import kernels

aten = torch.ops.aten
CPU = torch.device("cpu")
ROOT = Path(__file__).absolute().parents[2]
BETWEEN_DEVICES = {aten.copy_, aten._to_copy, aten.fill_, aten.is_same_size, aten._has_compatible_shallow_copy_type}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}
READING = {aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim,
           aten.unique_consecutive, aten.bincount, aten.histc}  # a card's number or size that the CPU needs
UNCHANGED = {aten._pin_memory, aten.record_stream}


class WrongDevice(RuntimeError):
    """An operation that a real card would refuse."""


class CardTensor(Tensor):
    """A tensor on `card`, whose numbers are the CPU tensor `inner`.

    For PyTorch's own code it is a tensor of the device `lazy`, which nothing else uses: gradients need no driver. What
    that code makes like such a tensor is made on the card, too.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, card: torch.device):
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=torch.device("lazy", card.index))
        made.inner = inner
        made.card = card
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} reads a tensor of the pretended card outside `Card`")

    device = property(lambda self: self.card)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor):
        self.inner = value.inner
        self.card = value.card

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def __reduce_ex__(self, protocol):
        return self.inner.__reduce_ex__(protocol)

    def get_device(self) -> int:
        return self.card.index

    def to(self, *args, **kwargs) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        device = self.card if device is None else name_card(device)
        dtype = dtype or self.dtype
        if not copy and device == self.card and dtype == self.dtype and memory_format is None:
            return self
        memory_format = memory_format or torch.preserve_format
        return aten._to_copy(self, device=device, dtype=dtype, non_blocking=non_blocking, memory_format=memory_format)

    def cpu(self) -> Tensor:
        return self.to(CPU)

    def cuda(self, device=0, **kwargs) -> Tensor:
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device)

    def type_as(self, other: Tensor) -> Tensor:
        return self.to(other)

    def new_tensor(self, data, dtype=None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=self.card)

    def __getitem__(self, index) -> Tensor:
        return super().__getitem__(read_lists(index))

    def __setitem__(self, index, value):
        if not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=self.dtype)
        super().__setitem__(read_lists(index), value)

    def tolist(self) -> list:
        return self.cpu().tolist()

    def numpy(self, **kwargs):
        raise TypeError(f"can't convert {self.card} device type tensor to numpy: copy it to host memory first")

    def __array__(self, *args, **kwargs):
        return self.numpy()

    def __repr__(self, **kwargs) -> str:
        return f"CardTensor({tuple(self.shape)}, {self.dtype}, {self.card})"

    def __deepcopy__(self, memo) -> Tensor:
        return CardTensor(self.inner.detach().clone(), self.card).requires_grad_(self.requires_grad)

    def __format__(self, form: str) -> str:
        return format(self.item(), form) if self.ndim == 0 else repr(self)


class CardGenerator(torch.Generator):
    """Random numbers for tensors of a card. They are those of the CPU. Operations see only its seed."""

    seeds = set()

    def __new__(cls, device):
        made = super().__new__(cls, "cpu")
        made.card = name_card(device)
        return made

    device = property(lambda self: self.card)

    def manual_seed(self, seed: int) -> CardGenerator:
        self.seeds.add(seed)
        return super().manual_seed(seed)


class Card(TorchDispatchMode):
    """Inside the block, tensors can lie on pretended cards.

    capability: of the cards; decides which kernels they have.
    waits: how often the CPU waited for a card, by operation and by the line of the pack that caused it.
    moved: bytes copied to and from the cards.
    """

    def __init__(self, capability: tuple[int, int] = (9, 0)):
        super().__init__()
        self.capability = capability
        self.waits = Counter()
        self.moved = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        card = find_card(given, kwargs)
        if packet is aten.to:  # seen without gradients only
            with self:
                return func.decompose(*args, **kwargs)
        if card is None:
            return func(*args, **kwargs)
        target = name_card(kwargs["device"]) if kwargs.get("device") is not None else None
        if target is not None:
            kwargs["device"] = CPU if target.type == "cuda" else target
        check_devices(func, args, kwargs, given)
        self.count(packet, args, target)
        if packet in UNCHANGED:
            return args[0]
        if packet in kernels.STAND_INS:
            func = kernels.STAND_INS[packet]
            func.check(self.capability, *args, **kwargs)
        plain_args, plain_kwargs = tree_map_only(CardTensor, read_inner, (args, kwargs))
        result = compute(func, plain_args, plain_kwargs)
        written = find_written(func, args, kwargs)
        if written is not None:
            return written
        device = target or (args[0].device if packet in BETWEEN_DEVICES else card)
        return tree_map_only(Tensor, lambda x: CardTensor(x, device), result) if device.type == "cuda" else result

    def count(self, packet, args: tuple, target: torch.device | None):
        """Counts the waits and copies of one operation."""
        source = args[-1] if packet is aten.copy_ else args[0] if args else None
        if packet is aten.copy_:
            source, target = args[1], args[0].device
        if packet in {aten.copy_, aten._to_copy} and target is not None and target != source.device:
            self.moved["to " + target.type] += source.numel() * source.element_size()
            if target.type == "cpu":
                self.wait(packet)
        elif packet in READING and source.device.type == "cuda":
            self.wait(packet)
        elif packet in INDEXING and any(is_choice(x) for x in args[1]) and not fills(args):
            self.wait(packet)

    def wait(self, packet):
        self.waits[f"{packet.__name__} {find_line()}"] += 1


def read_lists(index):
    """An index whose lists are tensors: PyTorch would make them on what it takes for the tensor's device."""
    if isinstance(index, tuple):
        return tuple(read_lists(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


def name_card(device) -> torch.device:
    """The device with a number, as tensors report it."""
    device = torch.device(device)
    return torch.device("cuda", device.index or 0) if device.type in ("cuda", "lazy") else device


def read_inner(x: CardTensor) -> Tensor:
    if not isinstance(x, CardTensor):
        raise WrongDevice("a tensor without numbers")
    return x.inner


def find_card(given: list[Tensor], kwargs: dict) -> torch.device | None:
    """The card of the first tensor on one, or the one that `device` names."""
    for x in given:
        if x.device.type == "cuda":
            return x.device
    device = None if kwargs.get("device") is None else name_card(kwargs["device"])
    return device if device is not None and device.type == "cuda" else None


def is_choice(index: Tensor | None) -> bool:
    """Whether an index is boolean and on a card: the CPU must learn how many it chooses."""
    return index is not None and index.dtype in (torch.bool, torch.uint8) and index.device.type == "cuda"


def fills(args: tuple) -> bool:
    """Whether an assignment by a mask is a fill with one number of the CPU, which needs no count."""
    return len(args) > 2 and args[2].ndim == 0 and args[2].device.type == "cpu"


def check_devices(func, args: tuple, kwargs: dict, given: list[Tensor]):
    packet = func.overloadpacket
    generator = kwargs.get("generator")
    if generator is not None and generator.initial_seed() not in CardGenerator.seeds:
        raise WrongDevice(f"{func}: a generator of the CPU for a tensor of a card")
    if packet in BETWEEN_DEVICES:
        return
    if packet in INDEXING:
        home = args[0].device
        indices = [x.device for x in args[1] if x is not None]
        allowed = {home, CPU} if home.type == "cuda" else {home}
        values = [x.device for x in args[2:3] if isinstance(x, Tensor) and x.ndim > 0]
        wrong = [x for x in indices if x not in allowed] + [x for x in values if x != home]
        if wrong:
            raise WrongDevice(f"{func}: a tensor on {home} is indexed by one on {wrong[0]}")
        return
    if torch.Tag.pointwise in func.tags:
        given = [x for x in given if x.ndim > 0 or x.device.type == "cuda"]
    devices = {x.device for x in given}
    if len(devices) > 1:
        shapes = [(tuple(x.shape), str(x.device)) for x in given]
        raise WrongDevice(f"{func}: tensors on {sorted(map(str, devices))}: {shapes}")


def compute(func, args: tuple, kwargs: dict):
    """The result on the CPU, which lacks some operations in half precision that cards have."""
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented for" not in str(error):
            raise
    halves = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.is_floating_point()}
    wide_args, wide_kwargs = tree_map_only(Tensor, lambda x: x.float() if x.dtype in halves else x, (args, kwargs))
    result = func(*wide_args, **wide_kwargs)
    (half,) = halves
    return tree_map_only(Tensor, lambda x: x.to(half) if x.dtype == torch.float32 else x, result)


def find_written(func, args: tuple, kwargs: dict):
    """The tensor that an operation writes to and returns, or None."""
    if "out" in kwargs:
        return kwargs["out"]
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable or len(schema.returns) != 1:
        return None
    return args[0]


def find_line() -> str:
    """The innermost line of the pack on the stack."""
    frames = traceback.extract_stack()
    here = str(ROOT / "tests")
    own = [frame for frame in frames if frame.filename.startswith(str(ROOT)) and not frame.filename.startswith(here)]
    if not own:
        return "host"
    return f"{Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno}"
