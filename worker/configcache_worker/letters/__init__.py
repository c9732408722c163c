"""
What an operator does with dead letters: look, mend and replay, discard, export, import.

``letter`` says what a dead letter tells, ``selection`` which are meant, ``mending`` what is published again, ``advice`` what
can be done, ``records`` how a letter is written down; these are pure. ``looking``, ``replaying``, ``discarding`` and ``moving`` do it, on what ``rabbitmq/letter_box`` hands
out. What is printed, and who is asked before anything is thrown away, is the verb's business.
"""
