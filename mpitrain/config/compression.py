"""The section `[compression]`: one class for each `kind`.

Invariant: the keys are the arguments of the compressor, so `build` passes them on as they are.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mpitrain import parallel
from mpitrain.config.section import Section


class NoCompressionSection(Section):
    """Gradients are summed as they are."""

    kind: Literal["none"] = "none"

    def build(self) -> None:
        """No compressor."""


class CastSection(Section):
    """A shorter type on the wire."""

    describes = (parallel.Cast,)
    kind: Literal["cast"]
    dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"
    """What travels; sums are taken in float32."""

    def build(self) -> parallel.Compressor:
        """The compressor."""
        return parallel.Cast(**self.settings())


class PowerSGDSection(Section):
    """Matrices as products of two thin ones."""

    describes = (parallel.PowerSGD,)
    kind: Literal["powersgd"]
    rank: int = 4
    """Columns of the factors."""
    warmup: int = 0
    """Steps at the start in which nothing is compressed."""
    seed: int = 0
    """Key of the first factors."""

    def build(self) -> parallel.Compressor:
        """The compressor."""
        return parallel.PowerSGD(**self.settings())


class TopKSection(Section):
    """The largest elements."""

    describes = (parallel.TopK,)
    kind: Literal["topk"]
    density: float = 0.01
    """Part of the elements that is sent."""
    error_feedback: bool = True
    """Whether the others are kept for later."""

    def build(self) -> parallel.Compressor:
        """The compressor."""
        return parallel.TopK(**self.settings())


class DGCSection(Section):
    """The largest elements of each replica's own momentum; the optimizer should have none."""

    describes = (parallel.DGC,)
    kind: Literal["dgc"]
    density: float = 0.001
    """Part of the elements that is sent."""
    momentum: float = 0.9
    """How much of the last step's direction stays."""
    clip: float | None = None
    """Largest norm of a parameter's gradient; by default there is none."""
    warmup: int = 0
    """Steps at the start in which more is sent, less and less."""

    def build(self) -> parallel.Compressor:
        """The compressor."""
        return parallel.DGC(**self.settings())


class SignSection(Section):
    """A bit for each element, by majority."""

    describes = (parallel.Sign,)
    kind: Literal["sign"]

    def build(self) -> parallel.Compressor:
        """The compressor."""
        return parallel.Sign()


class RandomKSection(Section):
    """Elements that all replicas draw alike."""

    describes = (parallel.RandomK,)
    kind: Literal["randomk"]
    density: float = 0.01
    """Part of the elements that is sent."""
    error_feedback: bool = True
    """Whether the others are kept for later."""
    seed: int = 0
    """Key of the choice."""

    def build(self) -> parallel.Compressor:
        """The compressor."""
        return parallel.RandomK(**self.settings())


class EF21Section(Section):
    """The largest differences from what the others know."""

    describes = (parallel.EF21,)
    kind: Literal["ef21"]
    density: float = 0.01
    """Part of the elements that is sent."""

    def build(self) -> parallel.Compressor:
        """The compressor."""
        return parallel.EF21(**self.settings())


CompressionSection = Annotated[
    NoCompressionSection
    | CastSection
    | PowerSGDSection
    | TopKSection
    | DGCSection
    | SignSection
    | RandomKSection
    | EF21Section,
    Field(discriminator="kind"),
]
