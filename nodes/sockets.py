"""Types of Likeness's own sockets; what travels on them is documented in the classes named here.

FACE_DETECTOR  faces.detector.FaceDetector
FACES          faces.types.Faces
FACE_CROP      inpaint.crop.FaceCrop
FACE_PARSER    faces.parsing.FaceParser
FACE_ENCODER   encoders.face_encoder.FaceEncoder
FACE_SCORER    a tuple of encoders.face_encoder.FaceEncoder
IMAGE_SCORER   a tuple of metrics.image_features.ImageNetwork and metrics.text_image.TextImageNetwork
PICTURE_SCORES metrics.ranking.Ranking
FACE_ID        encoders.identity.FaceId
FACE_ADAPTER   adapters.fact.FactAdapter, adapters.face2diffusion.Face2DiffusionAdapter, adapters.ip_adapter.IpAdapter
FACEA_IDENTITY adapters.facea.FaceaIdentity
FACE_PEOPLE    a tuple of inpaint.paint.Person
PLACED_PEOPLE  a tuple of attention_patches.people.PlacedPerson
FACE_WORDS     a tuple with the words [2, width] of each person
EXPRESSION_ENCODER  encoders.expression.ExpressionEncoder
FACE_EXPRESSION     encoders.expression.Expression

FACE_LANDMARKS is the host's own, see faces.host_types.
"""

from comfy_api.latest import io

FaceDetectorType = io.Custom("FACE_DETECTOR")
FacesType = io.Custom("FACES")
FaceCropType = io.Custom("FACE_CROP")
FaceParserType = io.Custom("FACE_PARSER")
FaceEncoderType = io.Custom("FACE_ENCODER")
FaceScorerType = io.Custom("FACE_SCORER")
ImageScorerType = io.Custom("IMAGE_SCORER")
PictureScoresType = io.Custom("PICTURE_SCORES")
FaceIdType = io.Custom("FACE_ID")
FaceAdapterType = io.Custom("FACE_ADAPTER")
FaceaIdentityType = io.Custom("FACEA_IDENTITY")
FacePeopleType = io.Custom("FACE_PEOPLE")
PlacedPeopleType = io.Custom("PLACED_PEOPLE")
FaceWordsType = io.Custom("FACE_WORDS")
ExpressionEncoderType = io.Custom("EXPRESSION_ENCODER")
ExpressionType = io.Custom("FACE_EXPRESSION")
FaceLandmarksType = io.Custom("FACE_LANDMARKS")
