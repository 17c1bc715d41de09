"""The hand-over to hardware: integers alone, packed, with golden vectors and a reader."""
