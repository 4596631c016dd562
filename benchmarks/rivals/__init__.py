"""The same chat, as each of the others would have it written. One file each, and a server each."""
