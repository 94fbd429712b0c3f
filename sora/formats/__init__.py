"""Mail as other programs keep it: maildir, mbox, and the files of Dovecot beside them. Pure: octets and names."""
