"""The section `[data]`: one class for each `kind`.

Invariant: `build` gives the training and the validation data, the same on every rank.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mpitrain import data
from mpitrain.bounds import Count, Positive
from mpitrain.config.section import Section
from mpitrain.data import ArrayDataset, Dataset, TokenDataset

TOKEN_FILES = {"llmc": data.llmc_tokens, "nanogpt": data.nanogpt_tokens, "npy": data.npy_tokens}


class StdlibSection(Section):
    """The source files of Python's standard library, a byte a token."""

    kind: Literal["stdlib"]
    context: Count
    """Tokens of a sample."""
    megabytes: Positive | None = None
    """How much of it, in 10^6 bytes; by default all."""

    def build(self) -> tuple[Dataset, Dataset]:
        """Training and validation data."""
        train, validation = data.stdlib_tokens(None if self.megabytes is None else round(self.megabytes * 1e6))
        return TokenDataset(train, self.context), TokenDataset(validation, self.context)


class TextSection(Section):
    """Files, a byte a token."""

    kind: Literal["text"]
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files for training, in this order."""
    validation: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files for validation."""
    context: Count
    """Tokens of a sample."""

    def build(self) -> tuple[Dataset, Dataset]:
        """Training and validation data."""
        train, validation = (data.byte_tokens(*files) for files in (self.files, self.validation))
        return TokenDataset(train, self.context), TokenDataset(validation, self.context)


class TokensSection(Section):
    """Token files."""

    kind: Literal["tokens"]
    format: Literal["llmc", "nanogpt", "npy"]
    """llm.c's .bin with a header, nanoGPT's .bin without one, or one dim of integers in a .npy file."""
    train: str
    """File for training."""
    validation: str
    """File for validation."""
    context: Count
    """Tokens of a sample."""

    def build(self) -> tuple[Dataset, Dataset]:
        """Training and validation data."""
        read = TOKEN_FILES[self.format]
        return TokenDataset(read(self.train), self.context), TokenDataset(read(self.validation), self.context)


class DigitsSection(Section):
    """The digits that scikit-learn carries."""

    kind: Literal["digits"]
    images: Literal["flat", "2-D"] = "2-D"
    """Samples of shape (64,) or (1, 8, 8)."""

    def build(self) -> tuple[Dataset, Dataset]:
        """Training and validation data."""
        train, validation = data.digits()
        return (train, validation) if self.images == "2-D" else (_flat(train), _flat(validation))


class IdxSection(Section):
    """MNIST's files, plain or gzipped."""

    kind: Literal["idx"]
    images: str
    """Images for training."""
    labels: str
    """Labels for training."""
    validation_images: str
    """Images for validation."""
    validation_labels: str
    """Labels for validation."""

    def build(self) -> tuple[Dataset, Dataset]:
        """Training and validation data."""
        validation = data.idx_dataset(self.validation_images, self.validation_labels)
        return data.idx_dataset(self.images, self.labels), validation


class Cifar10Section(Section):
    """CIFAR-10's binary version."""

    kind: Literal["cifar10"]
    folder: str
    """The folder with data_batch_1.bin .. data_batch_5.bin and test_batch.bin."""

    def build(self) -> tuple[Dataset, Dataset]:
        """Training and validation data."""
        train = [f"{self.folder}/data_batch_{i}.bin" for i in range(1, 6)]
        return data.cifar10_dataset(*train), data.cifar10_dataset(f"{self.folder}/test_batch.bin")


class NpySection(Section):
    """Arrays in .npy files, a sample a row."""

    kind: Literal["npy"]
    inputs: str
    """Inputs for training."""
    targets: str
    """Targets for training."""
    validation_inputs: str
    """Inputs for validation."""
    validation_targets: str
    """Targets for validation."""
    scale: float | None = None
    """What inputs are multiplied by, to give float32."""

    def build(self) -> tuple[Dataset, Dataset]:
        """Training and validation data."""
        validation = data.npy_dataset(self.validation_inputs, self.validation_targets, scale=self.scale)
        return data.npy_dataset(self.inputs, self.targets, scale=self.scale), validation


DataSection = Annotated[
    StdlibSection | TextSection | TokensSection | DigitsSection | IdxSection | Cifar10Section | NpySection,
    Field(discriminator="kind"),
]


def _flat(dataset: ArrayDataset) -> ArrayDataset:
    (images,) = data.parts_of(dataset.inputs)
    return ArrayDataset(images.reshape(len(dataset), -1), dataset.targets)
