package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/minirun/minirun/container"
	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/imagestore/registry"
	"github.com/minirun/minirun/imagestore/trust"
	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/urfave/cli/v2"
)

// trustPolicy is the policy that counts, nil if there is none.
func trustPolicy() (*trust.Policy, error) {
	path, wanted := container.TrustPolicy()
	p, err := trust.Load(path)
	if !wanted && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return p, err
}

// pullTrust has a pull obey the policy, and refuses what it need not ask a
// registry about.
func pullTrust(ref imagestore.Reference, o *registry.PullOptions) error {
	policy, err := trustPolicy()
	if err != nil || policy == nil {
		return err
	}
	if ref.Digest != "" {
		ref.Tag = "" // as the store will have it
	}
	name := ref.String()
	rule := policy.Rule(name)
	if rule.Action != trust.Signed {
		_, err := rule.Check(name, nil, nil)
		return err
	}
	o.Trust = func(digests []imagestore.Digest, found []imagestore.Signature) error {
		_, err := rule.Check(name, digests, signatures(found))
		return err
	}
	return nil
}

func signatures(found []imagestore.Signature) []trust.Signature {
	list := make([]trust.Signature, len(found))
	for i, s := range found {
		list[i] = trust.Signature(s)
	}
	return list
}

// ruleFor is the rule for an image of the store. One whose name has another image's
// digest is in no scope.
func ruleFor(policy *trust.Policy, img *imagestore.Image) trust.Rule {
	if img.Name != "" && !reference.Fits(img.Name, img.Target.Digest) {
		return policy.Rule("")
	}
	return policy.Rule(img.Name)
}

// checkStored checks an image of the store by the signatures that are there.
func checkStored(images *imagestore.Store, img *imagestore.Image, rule trust.Rule, name string) (by *trust.Key, err error) {
	digests := []reference.Digest{img.Target.Digest}
	if img.Manifest.Digest != img.Target.Digest {
		digests = append(digests, img.Manifest.Digest)
	}
	found, err := images.Signatures(digests...)
	if err != nil {
		return nil, err
	}
	return rule.Check(name, digests, signatures(found))
}

func imageTrustCommand(u *ui) *cli.Command {
	return command(&cli.Command{
		Name:      "trust",
		Usage:     "check whether images comply with the trust policy",
		ArgsUsage: "NAME|ID...",
		Description: "Checks the signatures that the store has, as run --image does, and remembers the result\n" +
			"until the image or the policy changes. The policy is " + container.DefaultTrustPolicy + ",\n" +
			"or the file that MINIRUN_TRUST_POLICY names.",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing about images that comply"}},
	}, 1, -1, func(c *cli.Context) error {
		images, err := openImages(c)
		if err != nil {
			return err
		}
		policy, err := trustPolicy()
		if err != nil {
			return err
		}
		if policy == nil {
			return fmt.Errorf("there is no trust policy: %s does not exist", container.DefaultTrustPolicy)
		}
		var errs []error
		for _, ref := range c.Args().Slice() {
			img, err := images.Resolve(ref)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			by, err := checkStored(images, img, ruleFor(policy, img), img.Name)
			if err == nil {
				err = unpacked.WriteTrust(images.Root(), img.Target.Digest, img.Name, policy.Text)
			}
			if err != nil {
				errs = append(errs, err)
			} else if !c.Bool("quiet") {
				fmt.Fprintln(u.out, trusted(ref, by))
			}
		}
		return errors.Join(errs...)
	})
}

// trusted says why an image is.
func trusted(ref string, by *trust.Key) string {
	if by == nil {
		return printable(ref) + " is accepted without a signature"
	}
	return printable(ref) + " is signed by " + printable(by.Name)
}

// verifyTrust is what --key and --policy of image verify check.
func verifyTrust(c *cli.Context) (func(images *imagestore.Store, ref string) (string, error), error) {
	var policy *trust.Policy
	var keys []*trust.Key
	if path := c.String("policy"); path != "" {
		var err error
		if policy, err = trust.Load(path); err != nil {
			return nil, err
		}
	}
	for _, path := range c.StringSlice("key") {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		k, err := trust.ParseKey(path, b)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if policy == nil && keys == nil {
		return nil, nil
	}
	return func(images *imagestore.Store, ref string) (string, error) {
		img, err := images.Resolve(ref)
		if err != nil {
			return "", err
		}
		var by *trust.Key
		if policy != nil {
			if by, err = checkStored(images, img, ruleFor(policy, img), img.Name); err != nil {
				return "", err
			}
		}
		if keys != nil {
			by, err = checkStored(images, img, trust.Rule{Scope: "--key", Action: trust.Signed, Keys: keys}, img.Name)
		}
		return trusted(ref, by), err
	}, nil
}
