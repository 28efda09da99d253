{{/* The pods of the Deployment or the DaemonSet */}}
{{- define "probe-exporter.podTemplate" -}}
metadata:
  labels:
    {{- include "probe-exporter.labels" . | nindent 4 }}
    {{- with .Values.pod.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.podAnnotations (not .Values.configReloader.enabled) }}
  annotations:
    {{- if not .Values.configReloader.enabled }}
    checksum/config: {{ toYaml .Values.config | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "probe-exporter.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.automountServiceAccountToken }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  restartPolicy: {{ .Values.restartPolicy }}
  hostNetwork: {{ .Values.hostNetwork }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.dnsPolicy }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with .Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.hostAliases }}
  hostAliases:
    {{- range . }}
    - ip: {{ .ip }}
      hostnames:
        {{- toYaml .hostNames | nindent 8 }}
    {{- end }}
  {{- end }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.hostNetwork | ternary (omit .Values.podSecurityContext "sysctls") .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- $selector := dict "labelSelector" (dict "matchLabels" (include "probe-exporter.selectorLabels" $ | fromYaml)) }}
    {{- range . }}
    - {{- toYaml (merge dict . $selector) | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- with .Values.extraInitContainers }}
  initContainers:
    {{- include "probe-exporter.expanded" (dict "value" . "root" $) | nindent 4 }}
  {{- end }}
  containers:
    - name: blackbox-exporter
      {{- include "probe-exporter.container" . | nindent 6 }}
    {{- with .Values.extraContainers }}
    {{- include "probe-exporter.expanded" (dict "value" . "root" $) | nindent 4 }}
    {{- end }}
  {{- with include "probe-exporter.volumes" . | trim }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "probe-exporter.container" -}}
image: {{ include "probe-exporter.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  {{- if and (include "probe-exporter.hasConfig" .) (not (regexMatch "--config\\.file" (toYaml .Values.extraArgs))) }}
  - --config.file={{ .Values.configPath | default "/config/blackbox.yaml" }}
  {{- end }}
  {{- if .Values.configReloader.enabled }}
  - --config.enable-auto-reload
  {{- end }}
  {{- with .Values.maxConnectionAge }}
  - --web.max-connection-age={{ . }}
  {{- end }}
  - --workers={{ include "probe-exporter.workers" . }}
  {{- with .Values.extraArgs }}
  {{- tpl (toYaml .) $ | nindent 2 }}
  {{- end }}
ports:
  - name: http
    containerPort: {{ .Values.containerPort }}
    protocol: TCP
    {{- with .Values.hostPort }}
    hostPort: {{ . }}
    {{- end }}
{{- range $name := list "livenessProbe" "readinessProbe" "startupProbe" "securityContext" "resources" }}
{{- with get $.Values $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- if and .Values.preStopSleepSeconds (semverCompare ">=1.30.0-0" (include "probe-exporter.kubeVersion" .)) }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.preStopSleepSeconds }}
{{- end }}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "probe-exporter.volumeMounts" . | trim }}
volumeMounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "probe-exporter.volumeMounts" -}}
{{- if include "probe-exporter.hasConfig" . }}
- name: config
  mountPath: /config
  readOnly: true
{{- end }}
{{- range concat (.Values.extraConfigmapMounts | default list) (.Values.extraSecretMounts | default list) }}
- {{- toYaml (pick . "name" "mountPath" "subPath" "readOnly") | nindent 2 }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "probe-exporter.volumes" -}}
{{- if include "probe-exporter.hasConfig" . }}
- name: config
  {{- if and .Values.configExistingSecretName (not .Values.secretConfig) }}
  secret:
    secretName: {{ .Values.configExistingSecretName }}
  {{- else if .Values.secretConfig }}
  secret:
    secretName: {{ include "probe-exporter.fullname" . }}
  {{- else }}
  configMap:
    name: {{ include "probe-exporter.fullname" . }}
  {{- end }}
{{- end }}
{{- range .Values.extraConfigmapMounts }}
- name: {{ .name }}
  configMap:
    name: {{ .configMap }}
    {{- with .defaultMode }}
    defaultMode: {{ . }}
    {{- end }}
{{- end }}
{{- range .Values.extraSecretMounts }}
- name: {{ .name }}
  secret:
    secretName: {{ .secretName }}
    {{- with .defaultMode }}
    defaultMode: {{ . }}
    {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
