"""The view of a selected mailbox: what is true, what each client has been told, and columns kept beside."""
