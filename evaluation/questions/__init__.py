"""Multiple-choice questions from local files."""

from evaluation.questions.base import FORMATS, Bad, Place, Question, QuestionFile
from evaluation.questions.load import Loaded, load_questions

__all__ = ["FORMATS", "Bad", "Loaded", "Place", "Question", "QuestionFile", "load_questions"]
