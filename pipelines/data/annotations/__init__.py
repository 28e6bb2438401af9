"""Labels of pictures: read from COCO, YOLO, Pascal VOC and labelme, moved along with their pictures, and written."""

from pipelines.data.annotations.base import LazyLabels
from pipelines.data.annotations.model import Label, Labels, labels_of
from pipelines.data.annotations.reading import AnnotationSet, read_annotations
from pipelines.data.annotations.writing import write_annotations

__all__ = ["AnnotationSet", "Label", "Labels", "LazyLabels", "labels_of", "read_annotations", "write_annotations"]
