"""The shape of a language model, and what follows from it: parameters, bytes, operations."""

from dataclasses import dataclass

from aps import _checks as check

BYTES = 2  # of a parameter and of a cached number: fp16
MOST = 10**14  # parameters


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense transformer decoder of Llama's form in fp16. Immutable and checked when made.

    layers: decoder layers. width: of the hidden state. feed_forward: of the gated MLP (three matrices).
    heads, kv_heads: query heads, which divide width, and key/value heads, which divide heads.
    vocabulary: tokens, each a row of the embedding and of the head (two matrices; a step reads the head's only).

    Raises ValueError (TypeError for a wrong type) naming the field, the value and what is allowed.
    """

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int

    def __post_init__(self) -> None:
        check.integer("ModelShape.layers", self.layers, 1, 10_000)
        check.integer("ModelShape.width", self.width, 1, 1_000_000)
        check.integer("ModelShape.feed_forward", self.feed_forward, 1, 10_000_000)
        check.integer("ModelShape.heads", self.heads, 1, 1_000_000)
        check.integer("ModelShape.kv_heads", self.kv_heads, 1, 1_000_000)
        check.integer("ModelShape.vocabulary", self.vocabulary, 1, 1_000_000_000)
        if self.width % self.heads:
            raise ValueError(f"ModelShape.heads must divide width {self.width}, got {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"ModelShape.kv_heads must divide heads {self.heads}, got {self.kv_heads}")
        if self.parameters > MOST:
            raise ValueError(f"ModelShape.parameters must be at most {MOST}, got {self.parameters}")

    @property
    def head_width(self) -> int:
        """Of one attention head."""
        return self.width // self.heads

    @property
    def decoder_parameters(self) -> int:
        """Attention and MLP of all layers: what each token of a step is multiplied with. Norms are left out."""
        attention = 2 * self.width * self.width + 2 * self.width * self.kv_heads * self.head_width
        return self.layers * (attention + 3 * self.width * self.feed_forward)

    @property
    def head_parameters(self) -> int:
        """Of the matrix that turns the last hidden state into a token."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All: decoder, head and embedding."""
        return self.decoder_parameters + 2 * self.head_parameters

    @property
    def decoder_bytes(self) -> int:
        """W of the physics."""
        return BYTES * self.decoder_parameters

    @property
    def head_bytes(self) -> int:
        """H of the physics."""
        return BYTES * self.head_parameters

    @property
    def weight_bytes(self) -> int:
        """What the weights take of the GPU's memory."""
        return BYTES * self.parameters

    @property
    def kv_bytes_per_token_layer(self) -> int:
        """Key and value of one token in one layer."""
        return 2 * self.kv_heads * self.head_width * BYTES

    @property
    def kv_bytes_per_token(self) -> int:
        """Key and value of one token in all layers."""
        return self.layers * self.kv_bytes_per_token_layer

    @property
    def flops_per_token(self) -> int:
        """Operations of one token in the decoder, a multiplication and an addition for each parameter.

        Attention's scores and the head are left out: an MFU from it is a little too low.
        """
        return 2 * self.decoder_parameters


LLAMA2_7B = ModelShape(32, 4096, 11008, 32, 32, 32000)
LLAMA2_13B = ModelShape(40, 5120, 13824, 40, 40, 32000)
LLAMA3_8B = ModelShape(32, 4096, 14336, 32, 8, 128256)
