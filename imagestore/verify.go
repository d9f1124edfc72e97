package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Verify reads every blob of the image ref and returns all findings joined:
// blobs that are missing or are not what their digest says, and a history that
// does not fit the layers. Diff IDs are checked when layers are unpacked.
func (s *Store) Verify(ctx context.Context, ref string) error {
	img, err := s.Resolve(ref)
	if err != nil {
		return err
	}
	var findings []error
	for _, l := range img.Layers {
		if err := s.verifyBlob(ctx, "layer", l); err != nil {
			findings = append(findings, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if h := img.Config.History; len(h) > 0 {
		n := 0
		for _, step := range h {
			if !step.EmptyLayer {
				n++
			}
		}
		if n != len(img.Layers) {
			findings = append(findings, &FormatError{Object: "config " + string(img.ConfigDigest), Err: fmt.Errorf("its history has %d layers, the manifest %d", n, len(img.Layers))})
		}
	}
	return errors.Join(findings...)
}

func (s *Store) verifyBlob(ctx context.Context, what string, d Descriptor) error {
	f, err := s.OpenBlob(what, d)
	if err != nil {
		return err
	}
	defer f.Close()
	v, err := NewVerifier(ContextReader(ctx, f), what, d)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, v)
	return err
}
