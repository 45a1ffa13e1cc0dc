"""What made each artifact: asked of the study, of the records, of the bytes on disk, and of DVC.

`planning` says what the study asks for, `checking` whether artifacts are that, `lineage` what led to an
artifact, `versions` what DVC holds. The commands of `shrinkflow` are made of these.
"""
