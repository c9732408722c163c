"""AMQP properties that no well-meaning client would send."""

from pamqp.commands import Basic


class RawProperties(Basic.Properties):
    """Properties as bytes of the test's choice, the flags included."""

    def __init__(self, encoded: bytes) -> None:
        super().__init__(message_id="unused")
        self.encoded = encoded

    def marshal(self) -> bytes:
        return self.encoded


def short(text: bytes) -> bytes:
    """An AMQP short string."""
    return bytes([len(text)]) + text
