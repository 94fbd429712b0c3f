"""The Sieve mail filtering language (RFC 5228): from the text of a script to the actions that it takes on a message.

Pure: a script asks for what it cannot know itself (mailboxes, metadata, other scripts), and whoever runs it answers.
"""
