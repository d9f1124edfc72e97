package imagestore

import (
	"fmt"
	"strings"
)

// Media types that are known and not handled.
const (
	mediaTypeSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// Unsupported says of a media type that cannot be an image why not.
func Unsupported(mediaType string) string {
	switch mediaType {
	case mediaTypeSchema1, mediaTypeSchema1Signed:
		return "docker image manifest version 2, schema 1, which was given up in 2017: push or save the image again with a newer docker"
	case "":
		return "no media type"
	}
	return fmt.Sprintf("media type %q", clip(mediaType))
}

// CheckKind refuses images that can be recognised and not run on any Linux, by
// name: those for Windows, with encrypted layers, or with layers of other kinds
// than archives. d names the image in errors.
func CheckKind(d Descriptor, m *Manifest, c *Config) error {
	if strings.EqualFold(c.OS, "windows") {
		return &UnsupportedError{Object: "image " + string(d.Digest), Reason: "it is for Windows"}
	}
	for _, l := range m.Layers {
		object := "layer " + string(l.Digest)
		switch t := l.MediaType; {
		case strings.HasSuffix(t, "+encrypted"):
			return &UnsupportedError{Object: object, Reason: "it is encrypted"}
		case isForeign(t) && len(l.URLs) > 0:
			return &UnsupportedError{Object: object, Reason: fmt.Sprintf("it is a foreign layer, whose content is at %s and not in registries or archives", clip(l.URLs[0]))}
		case !isLayerType(t):
			return &UnsupportedError{Object: object, Reason: Unsupported(t) + ", and no archive of files"}
		}
	}
	return nil
}

// isForeign tells layers that may not be handed on.
func isForeign(mediaType string) bool {
	return strings.Contains(mediaType, ".foreign.") || strings.Contains(mediaType, ".nondistributable.")
}

// isLayerType tells archives of files by the end of the type's name. Some docker
// versions and tools invent beginnings.
func isLayerType(mediaType string) bool {
	for _, end := range []string{".tar", ".tar+gzip", ".tar.gzip", ".tar+zstd", ".tar.zstd"} {
		if strings.HasSuffix(mediaType, end) {
			return true
		}
	}
	return false
}
