"""Multiple-choice questions from local files."""

from evaluation.questions.base import FORMATS, Bad, Question, QuestionFile
from evaluation.questions.load import Loaded, load_questions

__all__ = ["FORMATS", "Bad", "Loaded", "Question", "QuestionFile", "load_questions"]
