"""DICOM: films and MR series in, with every check that pydicom leaves out; synthetic films and derived series out."""
