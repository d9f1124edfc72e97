package imagestore

import "encoding/json"

// Media types that the store understands.
const (
	MediaTypeIndex        = "application/vnd.oci.image.index.v1+json"
	MediaTypeManifest     = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeConfig       = "application/vnd.oci.image.config.v1+json"
	MediaTypeLayer        = "application/vnd.oci.image.layer.v1.tar"
	MediaTypeLayerGzip    = "application/vnd.oci.image.layer.v1.tar+gzip"
	MediaTypeLayerZstd    = "application/vnd.oci.image.layer.v1.tar+zstd"
	MediaTypeDockerList   = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerImage  = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"
)

// Annotations that carry an image's name.
const (
	AnnotationRefName        = "org.opencontainers.image.ref.name"
	AnnotationContainerdName = "io.containerd.image.name" // full name, in the output of docker save
)

// Limits on untrusted metadata.
const (
	MaxMetadata = 4 << 20 // bytes of a manifest, index or config
	MaxLayers   = 4096    // layers of one image
	MaxEntries  = 1024    // manifests in one nested index
	maxDepth    = 3       // indexes inside indexes
)

// Descriptor points at content (image-spec, descriptor.md).
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       Digest            `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Data         []byte            `json:"data,omitempty"`
	Platform     *Platform         `json:"platform,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// Platform says what an image runs on (image-spec, image-index.md).
type Platform struct {
	Architecture string   `json:"architecture"`
	OS           string   `json:"os"`
	OSVersion    string   `json:"os.version,omitempty"`
	OSFeatures   []string `json:"os.features,omitempty"`
	Variant      string   `json:"variant,omitempty"`
}

// Manifest is an image manifest, OCI or docker schema 2.
type Manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        Descriptor        `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Index is an image index or a docker manifest list; index.json is one too.
type Index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Manifests     []Descriptor      `json:"manifests"`
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Config is an image's configuration blob (image-spec, config.md) with docker's
// additions. Times stay text: a bad one is no reason not to run the image.
type Config struct {
	Created      string   `json:"created,omitempty"`
	Author       string   `json:"author,omitempty"`
	Architecture string   `json:"architecture"`
	OS           string   `json:"os"`
	OSVersion    string   `json:"os.version,omitempty"`
	OSFeatures   []string `json:"os.features,omitempty"`
	Variant      string   `json:"variant,omitempty"`

	Config  ImageConfig `json:"config"`
	RootFS  RootFS      `json:"rootfs"`
	History []History   `json:"history,omitempty"`
}

// ImageConfig holds the execution parameters of an image. It is untrusted data:
// nothing in it may become a host path, an environment look-up or an option of
// the runtime.
type ImageConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	ArgsEscaped  bool                `json:"ArgsEscaped,omitempty"`
	Healthcheck  json.RawMessage     `json:"Healthcheck,omitempty"`
	OnBuild      []string            `json:"OnBuild,omitempty"`
	Shell        []string            `json:"Shell,omitempty"`
}

// RootFS lists the layers' uncompressed digests, bottom first.
type RootFS struct {
	Type    string   `json:"type"`
	DiffIDs []Digest `json:"diff_ids"`
}

// History is one step of how the image was made.
type History struct {
	Created    string `json:"created,omitempty"`
	CreatedBy  string `json:"created_by,omitempty"`
	Author     string `json:"author,omitempty"`
	Comment    string `json:"comment,omitempty"`
	EmptyLayer bool   `json:"empty_layer,omitempty"`
}

// Platform returns what the configuration says that the image runs on.
func (c *Config) Platform() Platform {
	return Platform{Architecture: c.Architecture, OS: c.OS, OSVersion: c.OSVersion, OSFeatures: c.OSFeatures, Variant: c.Variant}
}

func isIndexType(mediaType string) bool {
	return mediaType == MediaTypeIndex || mediaType == MediaTypeDockerList
}

func isManifestType(mediaType string) bool {
	return mediaType == MediaTypeManifest || mediaType == MediaTypeDockerImage
}

// IsImageConfigType tells the configuration of an image from that of another artifact.
func IsImageConfigType(mediaType string) bool {
	return mediaType == MediaTypeConfig || mediaType == MediaTypeDockerConfig
}

// Kind is what an artifact says that it is.
func (m *Manifest) Kind() string {
	if m.ArtifactType != "" {
		return m.ArtifactType
	}
	if len(SignatureLayers(m)) > 0 {
		return MediaTypeSimpleSigning
	}
	return m.Config.MediaType
}
