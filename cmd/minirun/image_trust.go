package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/imagestore/unpacked"
)

// checkTrust refuses an image that the trust policy does not accept. Signatures
// are checked by minirund, which records what it has found; here the record is
// compared, by the image's digest and the text of the policy.
func (a *app) checkTrust(image *unpacked.Image, ref string) error {
	path, wanted := container.TrustPolicy()
	policy, err := unpacked.ReadPolicy(path)
	if !wanted && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dir := a.images().Dir
	if unpacked.Trusted(dir, image, policy) {
		return nil
	}
	if image.Name != "" {
		ref = image.Name
	}
	if err := a.runSibling("image", "trust", "--quiet", "--", ref); err != nil {
		return err
	}
	if !unpacked.Trusted(dir, image, policy) {
		return fmt.Errorf("image %q has become another one, or the trust policy has changed, while it was checked", ref)
	}
	return nil
}
