package archive

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/minirun/minirun/imagestore"
)

// names returns what an entry of a layout's index.json is called.
func (l *loader) names(ctx context.Context, d imagestore.Descriptor, only bool) ([]imagestore.Naming, error) {
	one := func(name string) ([]imagestore.Naming, error) {
		if name != "" {
			full, err := imagestore.Normalize(name)
			if err != nil {
				return nil, err
			}
			name = full
		}
		return []imagestore.Naming{{Name: name, Target: d}}, nil
	}
	if l.o.Name != "" {
		return one(l.o.Name)
	}
	n := d.Annotations[imagestore.AnnotationRefName]
	if full := d.Annotations[imagestore.AnnotationContainerdName]; full != "" {
		// Tools that know the tag alone (umoci) copy the full name to other tags.
		if r, err := imagestore.ParseReference(full); err == nil && n != "" && r.Digest == "" && n != r.Tag && !strings.ContainsAny(n, "/:") {
			return one(r.Repository() + ":" + n)
		}
		return one(full)
	}
	switch {
	case strings.ContainsAny(n, "/:"):
		return one(n)
	case n == "":
		if tags := l.repoTags(ctx, d); len(tags) > 0 {
			var all []imagestore.Naming
			for _, t := range tags {
				v, err := one(t)
				if err != nil {
					return nil, err
				}
				all = append(all, v...)
			}
			return all, nil
		}
		if l.base == "" || !only {
			return one("")
		}
		return one(l.base)
	case l.base == "":
		l.res.Warnings = append(l.res.Warnings, fmt.Sprintf("the archive gives the image the tag %q and no name", n))
		return one("")
	}
	// The image-spec recommends a bare tag here; the layout's own name is the
	// rest of the name, as people who type oci:DIR:TAG see it.
	return one(l.base + ":" + n)
}

// repoTags looks an image of index.json up in the manifest.json beside it.
func (l *loader) repoTags(ctx context.Context, d imagestore.Descriptor) []string {
	b, err := l.t.file("manifest.json")
	if err != nil {
		return nil
	}
	items, err := parseDockerManifest(b)
	if err != nil {
		return nil
	}
	img, err := l.g.Image(d)
	if err != nil {
		return nil
	}
	for _, it := range items {
		if c, err := l.t.entry(ctx, it.Config); err == nil && c.digest == img.ConfigDigest {
			return it.RepoTags
		}
	}
	return nil
}

// baseName makes a repository name from a file name; empty if that does not work.
func baseName(src string) string {
	name := strings.ToLower(path.Base(path.Clean(src)))
	for _, ext := range []string{".gz", ".zst", ".tgz", ".tar", ".oci"} {
		name = strings.TrimSuffix(name, ext)
	}
	if r, err := imagestore.ParseReference(name); err != nil || r.Path != "library/"+name {
		return ""
	}
	return name
}
