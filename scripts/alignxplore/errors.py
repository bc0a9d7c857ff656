"""The one exception that users are meant to read."""


class UserError(Exception):
    """Something the user can put right: the message names the file, record or key and what to do."""
