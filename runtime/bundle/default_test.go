package bundle

import "testing"

func TestDefault_Valid(t *testing.T) {
	if err := Validate(Default()); err != nil {
		t.Error(err)
	}
	if err := Validate(DefaultRootless()); err != nil {
		t.Error(err)
	}
}
