"""What the Responses API has beyond an answer: turns that go on from others, and stored responses."""
