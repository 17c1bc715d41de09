"""The one exception that means: the user asked for something that cannot be done."""


class HalutError(ValueError):
    """Bad input. The message names what was wrong, where, and the choices.

    The command line prints it without a traceback and exits with a non-zero code.
    """
