"""One writer per folder."""

import os

from selfie_tf.errors import UserError


def lock(path: str, flag: str = "workdir", user: str = "run"):
    """Locks a folder until the process ends, however it ends.

    Args:
      path: The folder; a remote one has no locks.
      flag: The flag that names it, for messages.
      user: Who else might be there: another what.

    Returns:
      The lock, a `filelock.FileLock`; None for a remote folder.

    Raises:
      UserError: If the folder is locked, or its file system has no locks.
    """
    if "://" in path:
        return None
    import filelock

    owner = os.path.join(path, ".owner")  # who waits for the lock may empty its file
    held = filelock.FileLock(os.path.join(path, ".lock"))
    try:
        held.acquire(timeout=0)
    except filelock.Timeout as error:
        process = "unknown"
        if os.path.exists(owner):
            with open(owner) as file:
                process = file.read().strip()
        raise UserError(
            f"--{flag}={path} is in use by another {user} (process {process}); "
            f"wait for it, stop it, or use another --{flag}"
        ) from error
    except NotImplementedError as error:
        raise UserError(
            f"--{flag}={path}: this file system has no locks, so two {user}s could write there; "
            f"use another --{flag}"
        ) from error
    with open(owner, "w") as file:
        file.write(str(os.getpid()))
    return held
