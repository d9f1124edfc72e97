package main

import (
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/trust"
)

// A rule for a digest is for what has it, not for what is called so.
func TestRuleFor(t *testing.T) {
	good, bad := imagestore.Digest("sha256:"+strings.Repeat("a", 64)), imagestore.Digest("sha256:"+strings.Repeat("b", 64))
	p, err := trust.Parse([]byte(`{"version":1,"default":"reject","rules":{"docker.io/library/app@` + string(good) + `":"accept"}}`))
	if err != nil {
		t.Fatal(err)
	}
	name := "docker.io/library/app@" + string(good)
	if r := ruleFor(p, &imagestore.Image{Name: name, Target: imagestore.Descriptor{Digest: good}}); r.Action != trust.Accept {
		t.Errorf("what has the digest: %+v", r)
	}
	if r := ruleFor(p, &imagestore.Image{Name: name, Target: imagestore.Descriptor{Digest: bad}}); r.Action != trust.Reject {
		t.Errorf("what is called so: %+v", r)
	}
}
