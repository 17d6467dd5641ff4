"""The replay of R2D2: what actors sent, each step once, drawn from as sequences that overlap.

A contribution is a chunk: P steps of B streams. A sequence is ``chunks`` of them in a row, of one stream; one begins at each, so that
neighbours share all chunks but one. The oldest chunk goes when there is no room, and with it the sequences that begin there.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from actors.trajectory import Trajectory, TrajectoryContribution
from learner.chunks import Chunk, Kept, load_chunks, save_chunks
from rtrl_core import CoreState, carried
from rtrl_core.q_values import priorities
from rtrl_core.shapes import Bool, Float, Int, Shaped, Tensor

LEAST_PRIORITY = 1e-6
"""Of a sequence whose errors are zero: it may be drawn again."""


class Sequences(NamedTuple):
    """``S`` sequences of ``L`` steps, as if they were the streams of one trajectory."""

    observations: Shaped[Tensor, "R S ..."]
    """R is L + 1."""
    instructions: Int[Tensor, "R S W"] | None
    last_rewards: Float[Tensor, "R S"]
    last_actions: Int[Tensor, "R S"]
    is_first: Bool[Tensor, "R S"]
    terminated: Bool[Tensor, "L S"]
    truncated: Bool[Tensor, "L S"]
    valid: Bool[Tensor, "L S"]
    cut_places: Int[Tensor, "K 2"]
    cut_observations: Shaped[Tensor, "K ..."]
    cut_instructions: Int[Tensor, "K W"] | None
    before: CoreState
    """As it was stored, at the first step."""


class Past(NamedTuple):
    """What led to a sequence, as far as it is kept: oldest first."""

    inputs: Float[Tensor, "H D"]
    is_first: Bool[Tensor, " H"]
    before: CoreState
    """As it was stored, of one stream."""


class Drawn(NamedTuple):
    numbers: np.ndarray
    """int64 ``[S]``, of the chunks that the sequences begin with."""
    streams: np.ndarray
    """int64 ``[S]``."""
    weights: Float[Tensor, " S"]
    """Of importance: ``(N P(i))^-beta`` over their largest."""
    sequences: Sequences
    pasts: list[Past | None]
    """Where they were asked for and there are any."""
    versions: Float[Tensor, " S"]
    """Of the weights that acted at their first step."""


class SequenceReplay:
    """
    Args:
        streams: of a contribution.
        max_bytes: of what is kept.
        chunks: of a sequence.
        burn_in: of these, how many lead to the part that is learned from and that priorities are of.
        past: how many chunks before a sequence are drawn with it, at the most.
        exponent: alpha: ``P(i) ~ p_i^alpha``.
        correction: beta of the importance weights.
        seed: of what is drawn.
    """

    def __init__(
        self,
        *,
        streams: int,
        max_bytes: int,
        chunks: int,
        burn_in: int,
        past: int,
        exponent: float,
        correction: float,
        seed: int,
    ) -> None:
        self._max_bytes = max_bytes
        self._length, self._burn_in, self._past = chunks, burn_in, past
        self._exponent, self._correction = exponent, correction
        self._powers_of = f"chunks={chunks} burn_in={burn_in} exponent={exponent}"
        self._noise = np.random.default_rng(seed)
        self._chunks: OrderedDict[int, Chunk] = OrderedDict()
        self._last: dict[int, tuple[int, int, int]] = {}
        """Of each actor incarnation, sequence, and number of its newest chunk."""
        self._after: dict[int, int] = {}
        """Number of the chunk that follows one, in its streams."""
        self._next = 0
        self._oldest = 0
        self._powers = np.zeros((64, streams))
        """``p_i^alpha`` of each sequence that can be drawn, by chunk (a ring) and stream; else 0."""
        self.size_bytes = 0

    @property
    def looks_back(self) -> bool:
        """Whether something of what led to a sequence is drawn with it, for which contributions must have the core's inputs."""
        return self._past > 0

    @property
    def forgets(self) -> bool:
        """Whether it has been full."""
        return self._oldest > 0

    def __len__(self) -> int:
        """Sequences that can be drawn."""
        return int(np.count_nonzero(self._powers))

    def add(self, contribution: TrajectoryContribution) -> None:
        """Keeps a copy, and makes room for it."""
        header = contribution.header
        incarnation, sequence, number = self._last.get(header.actor_id, (-1, -1, -1))
        follows = (incarnation, sequence + 1) == (header.incarnation, header.sequence) and number in self._chunks
        kept = carried.map_leaves(torch.clone, Kept(contribution.trajectory, contribution.inputs))
        self._last[header.actor_id] = (header.incarnation, header.sequence, self._next)
        self._keep(Chunk(self._next, number if follows else None, header.policy_version, kept))

    def _keep(self, chunk: Chunk) -> None:
        """The newest one, with which a sequence may be whole."""
        self._insert(chunk)
        if chunk.previous is not None and chunk.previous in self._chunks:
            self._after[chunk.previous] = chunk.number
        whole = self._chain(chunk, self._length)
        if whole is not None:
            self._powers[self._slot(whole[0].number)] = self._first_powers(whole)

    def _insert(self, chunk: Chunk) -> None:
        self._chunks[chunk.number] = chunk
        self._next = chunk.number + 1
        self.size_bytes += chunk.size_bytes
        while self.size_bytes > self._max_bytes and len(self._chunks) > 1:
            self._drop_oldest()
        if self._next - self._oldest > len(self._powers):
            self._grow()
        self._powers[self._slot(chunk.number)] = 0

    def _drop_oldest(self) -> None:
        number, chunk = self._chunks.popitem(last=False)
        self._powers[self._slot(number)] = 0
        self._oldest = number + 1
        self._after.pop(number, None)
        self.size_bytes -= chunk.size_bytes

    def _slot(self, number: int) -> int:
        return number % len(self._powers)

    def _grow(self) -> None:
        old = self._powers
        self._powers = np.zeros((2 * len(old), old.shape[1]))
        for number in self._chunks:
            self._powers[self._slot(number)] = old[number % len(old)]

    def _chain(self, last: Chunk, count: int) -> list[Chunk] | None:
        """So many chunks in a row, of which this is the last; ``None`` if one is missing."""
        chain = [last]
        while len(chain) < count:
            before = chain[-1].previous
            if before is None or before not in self._chunks:
                return None
            chain.append(self._chunks[before])
        return chain[::-1]

    def _first_powers(self, chunks: list[Chunk]) -> np.ndarray:
        learned = chunks[self._burn_in :]
        valid = torch.cat([chunk.trajectory.valid for chunk in learned])
        return self._as_powers(
            priorities(torch.cat([chunk.trajectory.noted for chunk in learned]), valid), valid.any(0)
        )

    def _as_powers(self, given: Float[Tensor, " S"], learnable: Bool[Tensor, " S"]) -> np.ndarray:
        """0 for those that have no transition to learn from, or whose errors are not finite."""
        powers = given.double().cpu().nan_to_num(posinf=0.0, neginf=0.0).clamp(min=LEAST_PRIORITY) ** self._exponent
        return torch.where(learnable & given.cpu().isfinite(), powers, 0.0).numpy()

    def draw(self, count: int) -> Drawn:
        """With replacement.

        Raises:
            ValueError: if there is nothing to draw from.
        """
        summed = self._powers.cumsum()
        if not summed.size or not summed[-1] > 0:
            raise ValueError("nothing to draw from: no sequence is complete")
        found = summed.searchsorted(self._noise.random(count) * summed[-1], side="right")
        found = np.minimum(found, np.flatnonzero(self._powers)[-1])
        slots, streams = np.divmod(found, self._powers.shape[1])
        numbers = self._oldest + (slots - self._oldest) % len(self._powers)
        shares = self._powers.ravel()[found] / summed[-1]
        weights = (len(self) * shares) ** -self._correction
        first = [self._chunks[number] for number in numbers.tolist()]
        chains = [self._following(chunk) for chunk in first]
        picked = list(zip(chains, streams.tolist(), strict=True))
        return Drawn(
            numbers,
            streams,
            torch.from_numpy(weights / weights.max()),
            joined(picked),
            [self._past_of(chain[0], stream) for chain, stream in picked] if self.looks_back else [],
            torch.tensor([float(chunk.policy_version) for chunk in first]),
        )

    def _following(self, first: Chunk) -> list[Chunk]:
        chunks = [first]
        while len(chunks) < self._length:
            chunks.append(self._chunks[self._after[chunks[-1].number]])
        return chunks

    def _past_of(self, first: Chunk, stream: int) -> Past | None:
        chunks: list[Chunk] = []
        chunk = first
        while len(chunks) < self._past and chunk.previous is not None and chunk.previous in self._chunks:
            chunk = self._chunks[chunk.previous]
            chunks.append(chunk)
        if not chunks:
            return None
        chunks.reverse()
        of = torch.tensor([stream])
        return Past(
            torch.cat([chunk.inputs[:, stream] for chunk in chunks if chunk.inputs is not None]).float(),
            torch.cat([chunk.trajectory.is_first[:-1, stream] for chunk in chunks]),
            carried.select(chunks[0].trajectory.before, of),
        )

    def update(self, drawn: Drawn, found: Float[Tensor, " S"]) -> None:
        """New priorities of what was drawn, as far as it is still there. Those that are not finite are not drawn again."""
        learnable = torch.ones(len(found), dtype=torch.bool)
        for number, stream, power in zip(
            drawn.numbers.tolist(), drawn.streams.tolist(), self._as_powers(found, learnable).tolist(), strict=True
        ):
            if number in self._chunks:
                self._powers[self._slot(number), stream] = power

    def get_state(self) -> dict[str, Any]:
        """Copies of all that is kept, and what will be drawn: as nested dictionaries of tensors and numbers."""
        kept = list(self._chunks.values())
        return {
            "chunks": save_chunks(kept),
            "powers": torch.from_numpy(self._powers[[self._slot(chunk.number) for chunk in kept]]),
            "powers_of": self._powers_of,
            "last": {str(actor_id): list(mark) for actor_id, mark in self._last.items()},
            "noise": json.dumps(self._noise.bit_generator.state),
        }

    def set_state(self, state: Mapping[str, Any], example: Kept, num_actions: int) -> None:
        """Goes on from ``get_state``. Where there is less room now, what is oldest goes; where sequences are others now, or priorities
        of another exponent, they have their first priorities again.

        Args:
            example: a contribution's, whatever is in it.
            num_actions: that there are.

        Raises:
            ValueError: if this is nothing that could have been saved of such contributions.
        """
        powers = state["powers"]
        loaded = list(load_chunks(state["chunks"], example, num_actions))
        if (
            powers.shape != (len(loaded), self._powers.shape[1])
            or not (powers >= 0).all()
            or not powers.isfinite().all()
        ):
            raise ValueError("'powers' in it is nothing that this run could have saved")
        self._oldest = loaded[0].number if loaded else 0
        for chunk in loaded:
            self._keep(chunk)
        if state["powers_of"] == self._powers_of:
            for number, saved in zip([chunk.number for chunk in loaded], powers.numpy(), strict=True):
                # A sequence that begins there can be drawn where it could be when it was whole.
                if number in self._chunks:
                    slot = self._slot(number)
                    self._powers[slot] = np.where(self._powers[slot] > 0, saved, 0)
        self._last = {int(actor_id): (mark[0], mark[1], mark[2]) for actor_id, mark in state["last"].items()}
        try:
            self._noise.bit_generator.state = json.loads(state["noise"])
        except (ValueError, KeyError, TypeError, OverflowError):
            raise ValueError("'noise' in it is nothing that this run could have saved") from None


def joined(picked: Sequence[tuple[Sequence[Chunk], int]]) -> Sequences:
    """Sequences side by side, each given by its chunks and its stream."""

    def rows(of: Callable[[Trajectory, int], Tensor]) -> Tensor:
        """Of what has a row more than there are steps: the last row of a chunk is the first one of the next."""
        return torch.stack([_along(chunks, stream, of, overlap=True) for chunks, stream in picked], 1)

    def steps(of: Callable[[Trajectory, int], Tensor]) -> Tensor:
        return torch.stack([_along(chunks, stream, of, overlap=False) for chunks, stream in picked], 1)

    first = picked[0][0][0].trajectory
    cuts = [cut for place, (chunks, stream) in enumerate(picked) for cut in _cuts(chunks, stream, place)]
    has_words = first.instructions is not None
    return Sequences(
        rows(lambda trajectory, stream: trajectory.observations.of(stream)),
        rows(_instructions) if has_words else None,
        rows(lambda trajectory, stream: trajectory.last_rewards[:, stream]),
        rows(lambda trajectory, stream: trajectory.last_actions[:, stream]),
        rows(lambda trajectory, stream: trajectory.is_first[:, stream]),
        steps(lambda trajectory, stream: trajectory.terminated[:, stream]),
        steps(lambda trajectory, stream: trajectory.truncated[:, stream]),
        steps(lambda trajectory, stream: trajectory.valid[:, stream]),
        torch.tensor([cut.place for cut in cuts], dtype=torch.int64).view(-1, 2),
        torch.stack([cut.observation for cut in cuts]) if cuts else first.cut_observations[:0],
        _words(cuts, first),
        carried.joined(
            [carried.select(chunks[0].trajectory.before, torch.tensor([stream])) for chunks, stream in picked]
        ),
    )


def _along(chunks: Sequence[Chunk], stream: int, of: Callable[[Trajectory, int], Tensor], *, overlap: bool) -> Tensor:
    parts = [of(chunk.trajectory, stream) for chunk in chunks]
    return torch.cat([*(part[:-1] for part in parts[:-1]), parts[-1]] if overlap else parts)


def _instructions(trajectory: Trajectory, stream: int) -> Tensor:
    assert trajectory.instructions is not None
    return trajectory.instructions[:, stream]


class _Cut(NamedTuple):
    """The end of an episode that was cut off."""

    place: tuple[int, int]
    """Row and sequence."""
    observation: Tensor
    instruction: Tensor | None


def _cuts(chunks: Sequence[Chunk], stream: int, place: int) -> list[_Cut]:
    found, begun = [], 0
    for chunk in chunks:
        trajectory = chunk.trajectory
        for number, (row, of) in enumerate(trajectory.cut_places.tolist()):
            if of == stream:
                words = trajectory.cut_instructions
                found.append(
                    _Cut(
                        (begun + row, place),
                        trajectory.cut_observations[number],
                        None if words is None else words[number],
                    )
                )
        begun += trajectory.num_steps
    return found


def _words(cuts: Sequence[_Cut], example: Trajectory) -> Tensor | None:
    if example.cut_instructions is None:
        return None
    words = [cut.instruction for cut in cuts if cut.instruction is not None]
    return torch.stack(words) if words else example.cut_instructions[:0]
