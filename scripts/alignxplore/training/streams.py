"""GRPO over the steps of streams: which rollouts are sampled together, what is carried on, and who is credited.

A stream's steps are examples of their own. Step k + 1 starts from a description that a rollout of step k wrote:

    step 1   past ""                chunk 1   G rollouts: d_1 ... d_G     one is drawn, whatever its reward
    step 2   past: the d drawn      chunk 2   G rollouts                  one is drawn
    step 3   ...

With the credit `own`, each step is an update of its own. With {carried: a, others: b}, the steps of a stream are
sampled in rounds, and are in one update: a rollout's reward is its own, plus a (if it was drawn) or b (if not) times
the mean reward of the next step's rollouts.

docs/training.md draws both.
"""

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import Sampler

from alignxplore.engines.tokens import ChatTokenizer
from alignxplore.errors import UserError
from alignxplore.formats import Parsed
from alignxplore.prompts import Prompt
from alignxplore.training.packed import PackedTrainer

log = logging.getLogger(__name__)

Credit = str | Mapping[str, float]
"""`own`, or the shares of the next step's mean reward: `carried` for the rollout drawn, `others` for the rest."""

Stream = Sequence[int]
"""The rows of a stream's steps, in order."""


def check_credit(credit: Credit) -> None:
    """Raise UserError for a setting that is no rule of credit."""
    shares = credit.values() if isinstance(credit, Mapping) and credit.keys() == {"carried", "others"} else ()
    if credit != "own" and not (
        shares and all(type(share) in (int, float) and math.isfinite(share) for share in shares)
    ):
        raise UserError(
            f"training setting 'credit' must be 'own' or two numbers such as {{carried: 0.9, others: 0.45}}, not"
            f" {credit!r}"
        )


def find_streams(cases: Sequence[Mapping[str, Any]], kept: Sequence[int]) -> list[list[int]]:
    """The rows of each stream's steps. A stream ends before its first step that is not in `kept`."""
    rows: dict[str, list[int]] = {}
    for row in sorted(range(len(cases)), key=lambda row: len(cases[row]["chunks"])):
        rows.setdefault(cases[row]["stream"], []).append(row)
    among = set(kept)
    ends = [next((at for at, row in enumerate(stream) if row not in among), len(stream)) for stream in rows.values()]
    return [stream[:end] for stream, end in zip(rows.values(), ends, strict=True) if end]


def side_by_side(streams: Sequence[Stream], size: int) -> Iterator[list[int]]:
    """Batches of one step of each of `size` streams. When a stream ends, the next one takes its place. For size 2:

        lane 1   a1 a2 a3 | c1 c2
        lane 2   b1 b2 | d1 d2 d3     batches [a1 b1] [a2 b2] [a3 d1] [c1 d2] [c2 d3]

    The last steps are left out once a lane is empty.
    """
    waiting = deque(streams)
    lanes: list[deque[int]] = [deque() for _ in range(size)]
    while True:
        for number, lane in enumerate(lanes):
            if not lane and waiting:
                lanes[number] = deque(waiting.popleft())
        if not all(lanes):
            return
        yield [lane.popleft() for lane in lanes]


def whole(streams: Sequence[Stream], size: int) -> Iterator[list[int]]:
    """Batches of `size` steps in whole streams: each time the first that fits. For size 4:

        a1 a2 a3, b1 b2, c1     batches [a1 a2 a3 c1] ...

    If none fits into the rest of a batch, the first is cut there, and goes on in the next batch. The last steps, which
    do not fill a batch, are left out.
    """
    waiting = [list(stream) for stream in streams]
    left = sum(map(len, waiting))
    is_cut = False
    while left >= size:
        batch: list[int] = []
        while len(batch) < size:
            room = size - len(batch)
            fitting = None if is_cut else next((i for i, stream in enumerate(waiting) if len(stream) <= room), None)
            stream = waiting.pop(fitting or 0)
            batch += stream[:room]
            if is_cut := len(stream) > room:
                waiting.insert(0, stream[room:])
        left -= size
        yield batch


class StreamSampler(Sampler[int]):
    """Rows of steps in the order in which TRL's trainer takes them: as its RepeatSampler does, from other batches.

    Each epoch has another order of the streams, but the same order of their lengths, and so equally many batches.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        size: int,
        batches: Callable[[Sequence[Stream], int], Iterator[list[int]]],
        generations: int,
        repeats: int,
        seed: int | None,
    ):
        """`repeats` is how often a batch comes, with `generations` copies of each row; no seed is no shuffling."""
        self.streams, self.size, self.batches = streams, size, batches
        self.generations, self.repeats, self.seed = generations, repeats, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before an epoch begins."""
        self.epoch = epoch

    def _order(self) -> list[Stream]:
        if self.seed is None:
            return list(self.streams)
        first, now = (self._permutation(self.seed + epoch) for epoch in (0, self.epoch))
        by_length: dict[int, deque[Stream]] = {}
        for stream in now:
            by_length.setdefault(len(stream), deque()).append(stream)
        return [by_length[len(stream)].popleft() for stream in first]

    def _permutation(self, seed: int) -> list[Stream]:
        order = torch.randperm(len(self.streams), generator=torch.Generator().manual_seed(seed))
        return [self.streams[place] for place in order.tolist()]

    def planned(self) -> list[list[int]]:
        """The batches of the epoch, each with the rows whose rollouts are sampled for it."""
        return list(self.batches(self._order(), self.size))

    def __iter__(self) -> Iterator[int]:
        for batch in self.planned():
            for _ in range(self.repeats):
                for row in batch:
                    yield from [row] * self.generations

    def __len__(self) -> int:
        return len(self.planned()) * self.size * self.generations * self.repeats


def credited(
    own: torch.Tensor, following: Sequence[int | None], drawn: Sequence[int], shares: Mapping[str, float]
) -> torch.Tensor:
    """Rewards with a share of the next step's, (groups, G), from the `own` ones.

    `following` is the group of each group's next step, None if it is not in the batch, and `drawn` the rollout that was
    carried on to it. The next step counts with its own rewards: what it is credited itself is not passed on.
    """
    result = own.clone()
    for group, (after, rollout) in enumerate(zip(following, drawn, strict=True)):
        if after is not None:
            share = torch.full_like(own[group], shares["others"])
            share[rollout] = shares["carried"]
            result[group] += share * own[after].mean()
    return result


class StreamTrainer(PackedTrainer):
    """What GRPO over the steps of streams does beside PackedTrainer; the other base class trains on examples.

    The descriptions that are carried on are kept in the trainer's state, by the row of the step that starts from them.
    Checkpoints hold that state.
    """

    encoded: dict[str, list[int]]

    def __init__(
        self,
        *args: Any,
        cases: Sequence[Mapping[str, Any]],
        streams: Sequence[Stream],
        credit: Credit,
        update: Callable[[Mapping[str, Any], str], Prompt],
        parse: Callable[[Sequence[int]], Parsed],
        chat: ChatTokenizer,
        **kwargs: Any,
    ):
        """`update` is the prompt of a step with its past, and `parse` reads a rollout."""
        self.cases, self.streams, self.credit = cases, streams, credit
        self.update, self.parse, self.chat = update, parse, chat
        self.next_row = {row: after for stream in streams for row, after in zip(stream, stream[1:], strict=False)}
        self.drawn: dict[int, int] = {}
        super().__init__(*args, **kwargs)
        self._check_batches()

    def _check_batches(self) -> None:
        """Raise UserError for batches that would not give the rule of credit."""
        sampler = self._get_train_sampler()
        batches = sampler.planned()
        if not batches:
            raise UserError(f"one step needs {sampler.size} prompts, but there are only {len(self.streams)} streams")
        steps = sum(map(len, self.streams))
        if left_out := steps - len(batches) * sampler.size:
            log.info("an epoch leaves out %d of %d steps, which do not fill a batch", left_out, steps)
        accumulated = self.args.gradient_accumulation_steps
        if self.credit == "own":
            if sampler.repeats % accumulated:
                raise UserError(
                    "training setting 'gradient_accumulation_steps': with credit 'own', each step of a stream is an"
                    f" update of its own, so {accumulated} must divide steps_per_generation x num_iterations,"
                    f" {sampler.repeats}"
                )
            return
        processes, lengths = self.accelerator.num_processes, {len(stream) for stream in self.streams}
        share = self.args.generation_batch_size // processes
        if processes > 1 and (len(lengths) > 1 or share % (min(lengths) * self.num_generations)):
            raise UserError(
                "training setting 'credit': with several processes, streams must have equally many steps, and each"
                f" process whole streams; these have {sorted(lengths)} steps of {self.num_generations} rollouts, and a"
                f" process has {share}"
            )
        cut = sum(row in self.next_row and self.next_row[row] not in batch for batch in batches for row in batch)
        if cut:
            log.warning(
                "%d steps per epoch get no credit of the next one, because their stream goes on in the next batch; if"
                " streams have equally many steps, batches of a multiple of them avoid it",
                cut,
            )

    def _get_train_sampler(self, dataset: Dataset | None = None) -> StreamSampler:
        return StreamSampler(
            self.streams,
            self.args.generation_batch_size // self.num_generations,
            side_by_side if self.credit == "own" else whole,
            self.num_generations,
            self.num_iterations * self.args.steps_per_generation,
            self.args.seed if self.shuffle_dataset else None,
        )

    @property
    def pasts(self) -> dict[str, str]:
        """The descriptions from which the steps of the last batch started, and those after them will."""
        return self.state.stateful_callbacks.setdefault("pasts", {})

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        self._rows = [int(prompt) for prompt in prompts]
        return [[] for _ in prompts], None, {}  # filled in below, when their pasts are known

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """Rollouts of each round after those of the round before, of which one description is carried on.

        Writes the prompts into `prompt_ids`, which TRL goes on with.
        """
        completions: list[list[int]] = [[] for _ in prompt_ids]
        logprobs: list[Any] = [None] * len(prompt_ids)
        known = self.pasts.copy()
        self.drawn.clear()
        self.pasts.clear()
        for places in self._rounds():
            for row in {self._rows[place] for place in places}:
                past = self.pasts.setdefault(str(row), known.get(str(row), ""))
                self.encoded[str(row)] = self.chat.encode(self.update(self.cases[row], past))
            for place in places:
                prompt_ids[place] = self.encoded[str(self._rows[place])]
            ids, sampled = super()._generate_single_turn(
                [prompt_ids[place] for place in places], images, multimodal_fields, num_generations, **kwargs
            )
            for number, place in enumerate(places):
                completions[place] = ids[number]
                logprobs[place] = sampled and sampled[number]
            self._carry([self._rows[place] for place in places], ids)
        return completions, None if None in logprobs else logprobs

    def _rounds(self) -> list[list[int]]:
        """The places of the rows, by how many steps of their streams come before them in the batch."""
        number = dict.fromkeys(self._rows, 0)
        for row in number:
            if self.next_row.get(row) in number:
                number[self.next_row[row]] = number[row] + 1
        return [
            [place for place, row in enumerate(self._rows) if number[row] == wanted]
            for wanted in range(max(number.values()) + 1)
        ]

    def _carry(self, rows: Sequence[int], rollouts: Sequence[Sequence[int]]) -> None:
        """Draw one rollout of each row. Its description, or the past if it is out of format, goes on to the next step.

        The draw depends on the seed, the stream, the step and the epoch alone, so a resumed run repeats it.
        """
        parsed = [self.parse(ids) for ids in rollouts]
        texts = [item.preference if item.format_ok else None for item in parsed]
        # A group may be divided between processes.
        found = gather_object(list(zip(rows, texts, self._past_of(rows), strict=True)))
        epoch = int(self.state.epoch or 0)
        for start in range(0, len(found), self.num_generations):
            row, _, past = found[start]
            case = self.cases[row]
            name = f"{self.args.seed} {case['stream']} {len(case['chunks'])} {epoch}"
            self.drawn[row] = random.Random(name).randrange(self.num_generations)
            text = found[start + self.drawn[row]][1]
            self.pasts[str(row)] = past  # also of rows on other processes
            if row in self.next_row:
                self.pasts[str(self.next_row[row])] = past if text is None else text

    def _past_of(self, rows: Sequence[int]) -> list[str]:
        return [self.pasts[str(row)] for row in rows]

    def _calculate_rewards(self, inputs: Any, *args: Any) -> torch.Tensor:
        """The rewards of all processes' rollouts, (rollouts, 1), with the credit of the next step's."""
        own = super()._calculate_rewards(inputs, *args)
        self._own_mean = own.mean().item()
        if isinstance(self.credit, str):
            return own
        rows = gather_object(self._rows)[:: self.num_generations]
        group = {row: place for place, row in enumerate(rows)}
        following = [group.get(self.next_row.get(row, -1)) for row in rows]
        drawn = [self.drawn[row] for row in rows]
        return credited(own.view(len(rows), -1), following, drawn, self.credit).view(-1, 1)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        result = super()._generate_and_score_completions(inputs)
        # The step's own reward, under both rules: TRL logs what is credited.
        self._metrics["train" if self.model.training else "eval"]["reward"][-1] = self._own_mean
        return result
