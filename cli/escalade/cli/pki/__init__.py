"""`escalade pki`, `escalade enroll`, `escalade audit`: identities and who was given them."""
