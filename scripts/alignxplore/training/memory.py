"""What a training job needs, calculated from its settings: memory of one card and of the host, disk, and time.

Memory is what PyTorch holds at the largest moment of a step, in bytes; tests/speed/memory.py compares it with measured
peaks. It is known for decoders whose layers are alike, with gated MLPs (Qwen2 and 3, Llama, Mistral), attention that
keeps no scores (`sdpa`, FlashAttention), and Adam on all weights or on those of a LoRA. It is not known for experts,
which are refused, nor for FSDP, or models divided over GPUs by tensor or pipeline.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from alignxplore.engines.transformers import MOST_LOGITS as MOST_SCORED
from alignxplore.errors import UserError
from alignxplore.training.lora import peft_config
from alignxplore.training.scoring import MOST_LOGITS
from alignxplore.training.settings import Settings
from alignxplore.workflow.launcher import sharding

CONTEXTS = 3.5e9
"""An assumption: CUDA contexts of the policy, vLLM and the judge, and NCCL's buffers."""
QUANTISED = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in nf4: 4 bits, a byte per block of 64, and a float32 for each 256 of those bytes."""
MARGIN = 0.05
"""An assumption: the share of a card that fragmentation wastes."""
MAX_LIVE = 1e9
"""DeepSpeed's default of `stage3_max_live_parameters`: gathered parameters that it keeps for their next use."""
TILE = 4096 * 32768
"""Logits in a tile of TRL's fused head (trl/kernels/chunked_logprob.py)."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that memory depends on; `queries` and `keys` are heads x head size."""

    parameters: int
    layer_parameters: int
    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    intermediate: int
    vocabulary: int
    context: int
    ties: bool

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Shape":
        """The shape of a model, built from its config without weights; UserError for mixtures of experts."""
        text = config.get_text_config()
        if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
            raise UserError(f"{config.model_type}: the memory of a mixture of experts cannot be calculated")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        layer = sum(weight.numel() for weight in model.base_model.layers[0].parameters())
        heads = text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // heads
        keys = size * getattr(text, "num_key_value_heads", heads)
        attention = (text.hidden_size, heads, heads * size, keys)
        rest = (text.intermediate_size, text.vocab_size, text.max_position_embeddings, text.tie_word_embeddings)
        return cls(model.num_parameters(), layer, text.num_hidden_layers, *attention, *rest)

    def engine(self, dtype: str) -> int:
        """Bytes of the weights in the transformers engine, which has a head in float32 (engines/transformers.py)."""
        if dtype == "float32":
            return 4 * self.parameters
        return 2 * self.parameters + (4 if self.ties else 2) * self.vocabulary * self.hidden


@dataclass(frozen=True)
class Adapter:
    """The sizes of a LoRA that memory depends on: its weights, and by layer the inputs and ranks of its matrices."""

    weights: int
    inputs: int
    ranks: int
    has_dropout: bool
    quantised: int = 0
    """Weights of the base in 4 bits."""
    largest: int = 0
    """The most weights that one quantised matrix has."""

    @classmethod
    def of(cls, config: PreTrainedConfig, lora: Mapping[str, Any]) -> "Adapter":
        """The adapter of checked `lora` settings, built on a model without weights."""
        from peft import get_peft_model
        from peft.tuners.lora import LoraLayer

        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(config)
        head = base.get_output_embeddings()
        linear = [m.weight.numel() for m in base.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        network: Any = get_peft_model(base, peft_config(lora), low_cpu_mem_usage=True)
        layer: list[Any] = [
            m for m in network.get_base_model().base_model.layers[0].modules() if isinstance(m, LoraLayer)
        ]
        return cls(
            weights=sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
            inputs=sum(module.in_features for module in layer),
            ranks=sum(module.r["default"] for module in layer),
            has_dropout=bool(lora.get("lora_dropout")),
            quantised=sum(linear) if "quantize" in lora else 0,
            largest=max(linear) if "quantize" in lora else 0,
        )


@dataclass(frozen=True)
class Asked:
    """A model that answers questions on `gpus` cards, in batches of `tokens` tokens; vLLM needs that many for one."""

    shape: Shape
    engine: str
    dtype: str
    tokens: int
    gpus: int = 1

    def parts(self) -> dict[str, float]:
        """What is on each card, by name. The transformers engine uses one, and keeps logits of scored texts."""
        cards = max(self.gpus, 1) if self.engine == "vllm" else 1
        size = 4 if self.dtype == "float32" else 2
        cache = 2 * size * self.shape.keys * self.shape.layers * self.tokens
        logits = 4 * MOST_SCORED if self.engine == "transformers" else 4 * self.tokens * self.shape.vocabulary
        return {
            "weights": self.shape.engine(self.dtype) / cards,
            "keys and values": cache / cards,
            "logits": min(4 * MOST_SCORED, logits),
            "contexts": CONTEXTS / 3,
        }

    def fits(self, card: float) -> bool:
        """Whether cards of `card` bytes are enough; vLLM takes nine tenths of one by default."""
        return sum(self.parts().values()) <= (0.9 if self.engine == "vllm" else 1 - MARGIN) * card

    def seconds(self, new_tokens: int, speed: "Speed") -> float:
        """What a prompt takes: its completion of so many tokens, or reading it if there is none."""
        cards = max(self.gpus, 1) if self.engine == "vllm" else 1
        share = cards * speed.share(self.shape.parameters)
        return new_tokens / (share * speed.sampled_tokens) if new_tokens else 1 / (share * speed.judged_prompts)


@dataclass(frozen=True)
class Job:
    """SFT or GRPO of a model. `batch` sequences are in a forward pass, of up to `prompt` + `completion` tokens."""

    shape: Shape
    batch: int
    accumulation: int
    prompt: int
    completion: int
    processes: int = 1
    stage: int = 0
    offloads: bool = False
    weight_bytes: int = 4
    autocasts: bool = False
    is_mixed: bool = False
    """Whether products are computed in fewer bytes than float32, whatever the weights are."""
    checkpoints: bool = False
    rollouts: int = 0
    """Rollouts that a process gets at once, and shuffles before it divides them into batches."""
    generations: int = 1
    packs: bool = False
    """Whether rollouts of a prompt share a row (training/packed.py)."""
    samples: bool = False
    """Whether the policy itself samples its rollouts."""
    vllm: float = 0
    """The share of the card that vLLM takes."""
    vllm_sleeps: bool = False
    judge: int = 0
    """Bytes of the weights of a judge in the process."""
    judge_parameters: int = 0
    """How many weights it has, wherever it runs; 0 if unknown."""
    has_triton: bool = True
    adapter: Adapter | None = None
    """What is trained instead of all weights."""
    has_reference: bool = False
    """Whether a second model is there, whose weights stay: with `beta`, unless an adapter can be turned off."""

    @classmethod
    def of(
        cls,
        shape: Shape,
        arguments: Any,
        checked: Settings,
        launch: str = "python",
        processes: int = 1,
        adapter: Adapter | None = None,
    ) -> "Job":
        """The job of checked settings and the trainer's arguments, as `grpo.configure` or `sft.configure` give them.

        Lengths that no setting limits are limited by the model's context.
        """
        stage, offloads = sharding(launch)
        reduced = arguments.bf16 or arguments.fp16
        size = 2 if checked.dtype != "float32" or (reduced and stage) else 4
        job = cls(
            shape=shape,
            batch=arguments.per_device_train_batch_size,
            accumulation=arguments.gradient_accumulation_steps,
            prompt=0,
            completion=shape.context,
            processes=processes,
            stage=stage,
            offloads=offloads,
            weight_bytes=size,
            autocasts=reduced and size == 4,
            is_mixed=reduced,
            checkpoints=arguments.gradient_checkpointing,
            adapter=adapter,
        )
        if not hasattr(arguments, "num_generations"):
            return replace(job, completion=min(arguments.max_length or shape.context, shape.context))
        completion = arguments.max_completion_length
        colocated = arguments.use_vllm and arguments.vllm_mode == "colocate"
        return replace(
            job,
            prompt=min(checked.max_prompt_length or shape.context, shape.context - completion),
            completion=completion,
            rollouts=job.batch * arguments.steps_per_generation,
            generations=arguments.num_generations,
            packs=checked.attn_implementation in (None, "sdpa"),
            samples=not arguments.use_vllm,
            vllm=arguments.vllm_gpu_memory_utilization if colocated else 0,
            vllm_sleeps=colocated and arguments.vllm_enable_sleep_mode,
            has_reference=arguments.beta > 0 and adapter is None,
        )

    @property
    def trained(self) -> int:
        """The weights that have gradients and an optimiser."""
        return self.shape.parameters if self.adapter is None else self.adapter.weights

    @property
    def trained_bytes(self) -> int:
        """Bytes of each. An adapter is in float32, but DeepSpeed gives all weights one type."""
        return self.weight_bytes if self.adapter is None or self.stage else 4

    @property
    def weights(self) -> float:
        """Every process has all weights; ZeRO-3 divides them (Rajbhandari et al. 2020)."""
        whole = self.shape.parameters
        if self.adapter is None:
            copies = 2 if self.has_reference else 1
            return copies * self.weight_bytes * whole / (self.processes if self.stage == 3 else 1)
        kept = whole - self.adapter.quantised
        base = self.weight_bytes * kept + QUANTISED * self.adapter.quantised
        return (base + self.trained_bytes * self.trained) / (self.processes if self.stage == 3 else 1)

    @property
    def gradients(self) -> float:
        """As many as trained weights. ZeRO-2 and 3 divide them; DDP keeps a second copy in its buckets."""
        copies = 1 / self.processes if self.stage >= 2 else 2 if self.processes > 1 and not self.stage else 1
        return self.trained_bytes * self.trained * copies

    @property
    def optimiser(self) -> float:
        """Adam's two moments; DeepSpeed keeps float32 weights too. All ZeRO stages divide them."""
        each = 12 if self.stage else 2 * self.trained_bytes
        return each * self.trained / (self.processes if self.stage else 1)

    @property
    def gathered(self) -> float:
        """Under ZeRO-3: whole parameters that are in use or will be soon, and the output embedding for its loss."""
        if self.stage < 3:
            return 0
        head = self.shape.vocabulary * self.shape.hidden
        return self.weight_bytes * (min(MAX_LIVE, self.shape.parameters) + head)

    @property
    def size(self) -> int:
        """Bytes of a value that a layer's products compute."""
        return 2 if self.autocasts else self.weight_bytes

    @property
    def rows(self) -> int:
        """Rows of a forward pass. Shuffled rollouts are mostly of different prompts, as far as there are some."""
        return min(self.batch, max(1, self.rollouts // self.generations)) if self.packs else self.batch

    @property
    def scored(self) -> int:
        """Columns of a row with a completion. If they are shuffled, the longest has one rollout more than the mean."""
        members = math.ceil(self.batch / self.rows)
        return self.completion * (min(members + 1, self.generations) if self.rollouts > self.batch else members)

    @property
    def tokens(self) -> int:
        """Tokens in the rows of a forward pass, padding included."""
        return self.rows * (self.prompt + (self.scored if self.packs else self.completion))

    @property
    def activations(self) -> float:
        """What layers keep for the backward pass: everything, or their inputs if they are recomputed."""
        size = 4 if self.autocasts else self.weight_bytes
        inputs = size * self.shape.hidden * self.tokens
        kept = inputs if self.checkpoints else self._layer
        final_norm = ((2 if size == 4 else 4) - (0 if self.adapter is None else 1)) * inputs
        return self.shape.layers * kept + final_norm + self._casts(0 if self.checkpoints else self.shape.layers)

    @property
    def _layer(self) -> float:
        """What one layer keeps. Its tensors, for each token, of n values of `size` bytes each:

        2 norms        input, normalised, output     in 2 bytes also a float32 copy of the input
        attention      queries, keys, values, output, and a float32 sum per head
        MLP            gate, its activation, up, their product
        adapter        what A gives, and if inputs are not float32 its own copies of them; no normalised values
        """
        s, size = self.shape, self.size
        norms = s.hidden * (26 if self.autocasts else 24 if size == 4 else 16)
        # A packed row has a mask, with which keys and values are repeated for every query head.
        keys = s.queries if self.packs else s.keys
        mask = size * self.tokens / self.rows if self.packs else 0
        values = 2 * s.queries + 2 * keys + 4 * s.intermediate
        return self.tokens * (norms + size * values + 4 * s.heads + mask + self._of_adapter)

    @property
    def _of_adapter(self) -> float:
        """What an adapter adds to the bytes that a layer keeps for each token: what A gives, and its inputs.

        In float32, they are those of the weights. Reduced ones are copied for each A, and so are those with dropout,
        which also keeps a mask, on a CPU of whole values. No norm has to keep its normalised values.
        """
        s, size, adapter = self.shape, self.size, self.adapter
        if adapter is None:
            return 0
        normalised = 2 * s.hidden * (2 if self.weight_bytes == 2 else 4)
        copy = 0 if self.weight_bytes == 4 or self.stage else 2 if self.is_mixed else 4
        if adapter.has_dropout:
            copy = (copy or size) + (1 if self.has_triton else 4)
        shared = size * (2 * s.hidden + s.queries + s.intermediate) if copy else 0
        return size * adapter.ranks + copy * adapter.inputs - shared - normalised

    def _casts(self, layers: int) -> float:
        """The copies of float32 weights of layers in two bytes that autocast keeps."""
        return 2 * layers * self.shape.layer_parameters if self.autocasts else 0

    @property
    def working(self) -> float:
        """The most that comes and goes: of the output embedding and loss, or of one layer's backward pass."""
        return max(self._head, self._backward)

    @property
    def _backward(self) -> float:
        """A layer's gradients of 2 MLP and 4 hidden states, with 2 bytes 5, and of weights; its recomputed tensors."""
        s, size = self.shape, self.size
        values = self.tokens * (2 * s.intermediate + (4 if size == 4 else 5) * s.hidden)
        under_zero = self.weight_bytes * s.layer_parameters if self.stage and not self.adapter else 0
        of_adapter = 0 if self.adapter is None else size * self.adapter.largest  # a matrix out of its 4 bits
        return size * values + under_zero + of_adapter + (self._layer + self._casts(1) if self.checkpoints else 0)

    @property
    def _head(self) -> float:
        """Kept logits (training/scoring.py): logits, in float32, divided, their softmax, and the entropy's.

        Fused: a tile, and the gradients of hidden states and weights, in float32 and in the model's type.
        """
        s, scored, size = self.shape, self.batch * self.completion, self.size
        columns = self.rows * self.scored if self.packs else scored
        if self.stage < 3 and columns * s.vocabulary <= MOST_LOGITS:
            return scored * s.vocabulary * (16 if size == 4 else 14)
        # Without Triton all positions are scored, and a tile is computed from in torch, with seven copies at once.
        scored = scored if self.has_triton else self.tokens
        copies = 0 if self.has_triton else 7 * 4 * min(scored, 4096) * min(s.vocabulary, 32768)
        rows = scored + (0 if self.adapter else s.vocabulary)  # a frozen head has no gradient
        gradients = (4 + (self.weight_bytes if self.weight_bytes < 4 else 0)) * s.hidden * rows
        return gradients + size * min(scored * 32768, TILE) + copies

    @property
    def _step(self) -> float:
        """DeepSpeed's float32 copy of the gradients that a step applies at once (`sub_group_size` under ZeRO-3)."""
        owned = self.trained / self.processes
        return 0 if not self.stage or self.offloads else 4 * (min(owned, 1e9) if self.stage == 3 else owned)

    @property
    def sampling(self) -> float:
        """Keys and values of the policy's own rollouts; with ZeRO-3 it is whole (TRL's ds3_gather_for_generation)."""
        if not self.samples:
            return 0
        shared = self.generations if self.packs and not self.stage else 1
        length = self.rollouts // shared * self.prompt + self.rollouts * self.completion
        whole = self.weight_bytes * self.shape.parameters if self.stage == 3 else 0
        return 2 * self.size * self.shape.keys * self.shape.layers * length + whole

    @property
    def host(self) -> float:
        """Main memory of one process that a card would hold: an offloaded optimiser, with float32 gradients."""
        return self.optimiser + 4 * self.trained / self.processes if self.offloads else 0

    @property
    def checkpoint(self) -> float:
        """Bytes on disk of one checkpoint: trained weights, and the optimiser of all processes."""
        optimiser = self.optimiser * (self.processes if self.stage else 1)
        return self.trained_bytes * self.trained + optimiser

    def parts(self, card: float) -> dict[str, float]:
        """What is on a card of `card` bytes in the update of the weights, by name."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser": 0 if self.offloads else self.optimiser,
            "gathered weights": self.gathered,
            "activations": self.activations,
            "working memory": self.working,
            "vLLM": 0 if self.vllm_sleeps else self.vllm * card,
            "judge": self.judge,
            "contexts": CONTEXTS,
        }

    def peak(self, card: float) -> float:
        """The most on a card of `card` bytes: in the backward pass, in Adam's step, or while rollouts are sampled."""
        parts = self.parts(card)
        of_update = ("gathered weights", "activations", "working memory", "vLLM")
        others = sum(value for name, value in parts.items() if name not in of_update)
        return max(sum(parts.values()), others + parts["vLLM"] + self._step, others + self.vllm * card + self.sampling)

    def fits(self, card: float) -> bool:
        """Whether a card of `card` bytes is enough."""
        return self.peak(card) <= (1 - MARGIN) * card

    def seconds(self, prompt: float, completion: float, speed: "Speed") -> dict[str, float]:
        """What a step takes, by part, if sequences have these mean lengths; a network between cards costs nothing.

        A weight costs 6 operations per token, and 2 more if layers are recomputed (Kaplan et al. 2020); one that is not
        trained costs 2 less. Attention's own are left out. The judge reads both orders of each pair. Sampling
        and judging take time in proportion to a model's weights.
        """
        sequences = self.batch * self.accumulation
        frozen = 0 if self.adapter is None else self.shape.parameters
        per_token = (8 if self.checkpoints else 6) * (self.trained + frozen) - 2 * frozen
        operations = per_token * sequences * (prompt + completion)
        policy, judge = (speed.share(size) for size in (self.shape.parameters, self.judge_parameters))
        return {
            "rollouts": sequences * completion / (policy * speed.sampled_tokens) if self.rollouts else 0,
            "judge": 2 * sequences / (judge * speed.judged_prompts) if self.rollouts else 0,
            "update": operations / (speed.operations * speed.used),
        }


SPEED_OF = 7_615_616_512
"""The weights of the models for which Speed states sampled tokens and judged prompts: Qwen2.5-7B's."""


@dataclass(frozen=True)
class Speed:
    """Assumptions about one card per second: bfloat16 operations (an H100's), and the share of them that is used.

    Sampled tokens and judged prompts are an H100's; those of another card are in proportion to its operations.
    """

    operations: float = 989e12
    used: float = 0.4
    sampled_tokens: float = 1875
    judged_prompts: float = 12.8

    def share(self, parameters: int) -> float:
        """How many times as fast as that this card samples and judges with a model of so many weights (0: as many)."""
        return self.operations / Speed.operations * SPEED_OF / (parameters or SPEED_OF)
