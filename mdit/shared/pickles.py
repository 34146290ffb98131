"""What a pickle would do, read without doing it: torch's loader runs no code, but it may be kept busy for ever."""
from __future__ import annotations

import itertools
import pickletools
from typing import BinaryIO

from .text_files import Refused, shorten

MOST_STEPS = 500_000  # a model of 2,000 tensors with the state of its optimizer takes 250,000
DEEPEST = 8  # tuples in tuples: a tensor has two
PICKLES_BEFORE = 3  # in a file of torch before 1.6: a magic number, a version, and sizes of types
PUTS = ("BINPUT", "LONG_BINPUT")
GETS = ("BINGET", "LONG_BINGET")
GROWING = ("bytearray", "Tensor")  # ends of names that make an object of any size out of a number
STEPS = {  # that torch's restricted loader knows; the others let a pickle's stack run out of step with ours
    *PUTS, *GETS, "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINPERSID", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND",
    "APPENDS", "SETITEM", "SETITEMS", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3"}


def check_pickle(stream: BinaryIO) -> None:
    """Raises Refused for a pickle that would take too long: in steps, or to hash tuples of tuples of tuples.

    A tuple that holds another one twice, and so on 64 times, takes longer to hash than anyone lives.
    """
    depths = []  # of the objects on the pickle's stack
    marks = []  # where the stack was marked
    memo = {}
    steps = 0
    for step, argument, _ in pickletools.genops(stream):
        steps += 1
        if step.name not in STEPS or steps > MOST_STEPS:
            raise Refused(f"it has a step {step.name} or more than {MOST_STEPS} of them: take the original file")
        if step.name == "GLOBAL" and argument.endswith(GROWING):
            raise Refused(f"it makes objects of any size ({shorten(argument)}): take the original file")
        if step.name == "MARK":
            marks.append(len(depths))
        elif step.name in PUTS:
            memo[argument] = depths[-1]
        elif step.name in GETS:
            depths.append(memo[argument])
        else:
            taken = take(depths, marks, step)
            depth = 1 + max(taken, default=0) if "TUPLE" in step.name else 0
            depths += [depth] * len(step.stack_after)
            if depth > DEEPEST:
                raise Refused(f"it has tuples in tuples, more than {DEEPEST} deep: take the original file")


def take(depths: list[int], marks: list[int], step: pickletools.OpcodeInfo) -> list[int]:
    """Takes what a step takes off the stack."""
    kinds = step.stack_before
    count = len(kinds)
    if pickletools.markobject in kinds:
        count = len(depths) - marks.pop() + kinds.index(pickletools.markobject)
    start = len(depths) - count
    taken = depths[start:]
    del depths[start:]
    return taken


def check_old_pickles(stream: BinaryIO) -> None:
    """`check_pickle` for a file of torch before 1.6: pickles that follow one another, the last with the weights."""
    for _ in itertools.repeat(None, PICKLES_BEFORE + 1):
        check_pickle(stream)
