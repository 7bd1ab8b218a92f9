"""Storage: how bytes reach a disk and come back, so that no reader meets half a file.

One convention decides whether something on disk is whole:

- A file is written under a temporary name, flushed, then renamed (`atomic`). A file under its own
  name is complete; a reader ignores temporary names, and the next writer overwrites them.
- A folder is filled under a temporary name, flushed, then renamed (`atomic_folder`). A folder that
  is replaced is kept beside the new one until that is in place, and `whole_folder` finds it.
- A file that grows is a `journal`: a line counts once its line feed is written, and ends with its
  CRC-32.
- A JSON file of imitact carries the SHA-256 of its values (`checksum`); every other file has its
  SHA-256 in a JSON file beside it, or at its own end (`sealed_file`).
- One process writes to a folder at a time (`lock`), and continues work that was begun there only
  with the same settings (`settings_diff`).

Damage raises DamagedFile, a full disk DiskFull, anything else that cannot be used BadInput.
"""
