"""A small certificate authority for those who have none. Needs `pip install 'escalade[security]'`; serving does not.

- `authority`: a folder with a CA: init, issue, renew, revoke, inspect
- `certificates`: what the certificates say, built with `cryptography`
- `files`: keys and certificates as files that are never overwritten
- `tokens`: one-time tokens for devices that enrol
- `enrolment`: both ends of an enrolment
"""
