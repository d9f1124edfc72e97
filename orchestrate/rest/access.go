package rest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Groups of questions about who may do what. Nothing of them is stored, and the
// answer is always the same: whoever reaches the API may do everything.
const (
	authorizationGroup  = "authorization.k8s.io"
	authenticationGroup = "authentication.k8s.io"
)

// reviews are the kinds of questions, by group and resource.
var reviews = []struct{ group, resource, kind string }{
	{authenticationGroup, "selfsubjectreviews", "SelfSubjectReview"},
	{authorizationGroup, "selfsubjectaccessreviews", "SelfSubjectAccessReview"},
	{authorizationGroup, "selfsubjectrulesreviews", "SelfSubjectRulesReview"},
}

func reviewResources(group string) *metav1.APIResourceList {
	l := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: group + "/v1"}
	for _, r := range reviews {
		if r.group == group {
			l.APIResources = append(l.APIResources, metav1.APIResource{Name: r.resource, SingularName: strings.ToLower(r.kind), Kind: r.kind, Verbs: metav1.Verbs{"create"}})
		}
	}
	return l
}

// asOther refuses requests in somebody else's name: there is nobody else, and what
// was asked for is not to be done with all rights.
func asOther(h http.Header) error {
	for name := range h {
		if strings.HasPrefix(name, "Impersonate-") {
			return &problem{http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("header %s: there are no users to act as: whoever reaches the API may do everything", name)}
		}
	}
	return nil
}

// foreign refuses what a page of another site has a browser send. A browser that has
// our certificate sends it along, a form may be posted and a WebSocket opened to
// anywhere, and who reaches the API may do everything. Pages of this host are let in,
// as those behind "kubectl proxy", and so is who is no browser: he says no origin.
func foreign(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" {
		name := u.Hostname()
		ip := net.ParseIP(name)
		if name == "localhost" || ip != nil && ip.IsLoopback() || name == (&url.URL{Host: r.Host}).Hostname() {
			return nil
		}
	}
	return &problem{http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("origin %q: the API is not for pages of other sites", origin)}
}

// review answers such a question; false is for other paths.
func (s *Server) review(w http.ResponseWriter, q *request) bool {
	for _, r := range reviews {
		if q.URL.Path != "/apis/"+r.group+"/v1/"+r.resource {
			continue
		}
		doc, err := s.answer(q, r.kind)
		if err != nil {
			s.fail(w, q, err)
			return true
		}
		reply(w, http.StatusCreated, doc)
		return true
	}
	return false
}

func (s *Server) answer(q *request, kind string) (any, error) {
	if q.Method != http.MethodPost {
		return nil, errVerb
	}
	text, err := s.body(q)
	if err != nil {
		return nil, err
	}
	read := func(into any) error {
		if err := json.Unmarshal(text, into); err != nil {
			return bad("%s: %v", kind, err)
		}
		return nil
	}
	switch kind {
	case "SelfSubjectReview":
		r := &authenticationv1.SelfSubjectReview{}
		if err := read(r); err != nil {
			return nil, err
		}
		r.TypeMeta = metav1.TypeMeta{APIVersion: authenticationGroup + "/v1", Kind: kind}
		r.Status.UserInfo = whoAsks(q)
		return r, nil
	case "SelfSubjectRulesReview":
		r := &authorizationv1.SelfSubjectRulesReview{}
		if err := read(r); err != nil {
			return nil, err
		}
		if r.Spec.Namespace == "" {
			return nil, bad("%s: spec.namespace: no namespace on request", kind)
		}
		r.TypeMeta = metav1.TypeMeta{APIVersion: authorizationGroup + "/v1", Kind: kind}
		all := []string{"*"}
		r.Status = authorizationv1.SubjectRulesReviewStatus{
			ResourceRules:    []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}},
			NonResourceRules: []authorizationv1.NonResourceRule{{Verbs: all, NonResourceURLs: all}},
		}
		return r, nil
	}
	r := &authorizationv1.SelfSubjectAccessReview{}
	if err := read(r); err != nil {
		return nil, err
	}
	if (r.Spec.ResourceAttributes == nil) == (r.Spec.NonResourceAttributes == nil) {
		return nil, bad("%s: spec: exactly one of nonResourceAttributes or resourceAttributes must be specified", kind)
	}
	r.TypeMeta = metav1.TypeMeta{APIVersion: authorizationGroup + "/v1", Kind: kind}
	r.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: true}
	return r, nil
}

// whoAsks is the client: the name in its certificate, or who has the socket.
func whoAsks(q *request) authenticationv1.UserInfo {
	name := "root"
	if q.TLS != nil && len(q.TLS.PeerCertificates) > 0 {
		name = q.TLS.PeerCertificates[0].Subject.CommonName
	}
	return authenticationv1.UserInfo{Username: name, Groups: []string{"system:masters", "system:authenticated"}}
}
