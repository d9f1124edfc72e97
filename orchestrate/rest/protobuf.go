package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/minirun/minirun/orchestrate/api"
)

// protobufPrefix begins what Kubernetes sends as protobuf; behind it is a
// runtime.Unknown. See k8s.io/apimachinery/pkg/runtime/serializer/protobuf.
var protobufPrefix = []byte("k8s\x00")

const protobufType = "application/vnd.kubernetes.protobuf"

// message is an object that reads protobuf.
type message interface {
	Unmarshal([]byte) error
	GetObjectKind() schema.ObjectKind
}

// fromProtobuf makes JSON of a body in protobuf, which typed clients send, as some
// commands of kubectl are; they read JSON. Other bodies stay what they are.
func fromProtobuf(r *api.Registry, q *request, b []byte) ([]byte, error) {
	kind, _, _ := mime.ParseMediaType(q.Header.Get("Content-Type"))
	switch kind {
	case protobufType:
	case "application/cbor", "application/apply-patch+cbor":
		return nil, &problem{http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, fmt.Sprintf("the body is %s, want JSON, YAML or protobuf", kind)}
	default:
		return b, nil
	}
	if len(b) == 0 {
		return b, nil
	}
	raw, ok := bytes.CutPrefix(b, protobufPrefix)
	if !ok {
		return nil, bad("protobuf: the body does not begin with %q", protobufPrefix)
	}
	var u runtime.Unknown
	if err := u.Unmarshal(raw); err != nil {
		return nil, bad("protobuf: %v", err)
	}
	m, err := messageOf(r, u.APIVersion, u.Kind)
	if err != nil {
		return nil, err
	}
	if err := m.Unmarshal(u.Raw); err != nil {
		return nil, bad("protobuf: %s: %v", u.Kind, err)
	}
	m.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(u.APIVersion, u.Kind))
	return json.Marshal(m)
}

func messageOf(r *api.Registry, version, kind string) (message, error) {
	switch kind {
	case "DeleteOptions":
		return &metav1.DeleteOptions{}, nil
	case "Eviction":
		return &policyv1.Eviction{}, nil
	case "Binding":
		return &corev1.Binding{}, nil
	case "Scale":
		return &autoscalingv1.Scale{}, nil
	case "SelfSubjectReview":
		return &authenticationv1.SelfSubjectReview{}, nil
	case "SelfSubjectAccessReview":
		return &authorizationv1.SelfSubjectAccessReview{}, nil
	case "SelfSubjectRulesReview":
		return &authorizationv1.SelfSubjectRulesReview{}, nil
	}
	k, err := r.Find(version, kind)
	if err != nil {
		return nil, bad("%v", err)
	}
	m, ok := k.New().(message)
	if !ok {
		return nil, bad("%s has no form in protobuf", kind)
	}
	return m, nil
}
