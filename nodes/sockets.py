"""Types of Likeness's own sockets; what travels on them is documented in the classes named here.

FACE_DETECTOR  faces.detector.FaceDetector
FACES          faces.types.Faces
FACE_ENCODER   encoders.face_encoder.FaceEncoder
FACE_ID        encoders.identity.FaceId
FACE_ADAPTER   adapters.fact.FactAdapter
"""

from comfy_api.latest import io

FaceDetectorType = io.Custom("FACE_DETECTOR")
FacesType = io.Custom("FACES")
FaceEncoderType = io.Custom("FACE_ENCODER")
FaceIdType = io.Custom("FACE_ID")
FaceAdapterType = io.Custom("FACE_ADAPTER")
