"""The target `packed`, a hand-over to hardware: integers alone, golden vectors and a reader."""

from halut.export.packed.write import Options, write

__all__ = ["Options", "write"]
