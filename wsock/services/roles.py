"""Who may do what: one table, for the code, the REST API and the documentation."""

from __future__ import annotations

from enum import StrEnum

from wsock.records import Role

__all__ = ["PERMISSIONS", "Permission"]


class Permission(StrEnum):
    """What an administrative act needs."""

    TEAM_READ = "team.read"
    """See the team and its members."""
    TEAM_UPDATE = "team.update"
    """Rename the team."""
    TEAM_DELETE = "team.delete"
    """Delete the team with its apps and all of theirs."""
    MEMBERS_INVITE = "members.invite"
    """Invite people, see and take back invitations; to no greater role than one's own."""
    MEMBERS_UPDATE = "members.update"
    """Change a member's role; neither of nor to a greater one than one's own."""
    MEMBERS_REMOVE = "members.remove"
    """Remove a member of no greater role than one's own. Everybody may leave."""
    APPS_READ = "apps.read"
    """See apps, their settings and namespaces."""
    APPS_CREATE = "apps.create"
    """Create apps."""
    APPS_UPDATE = "apps.update"
    """Change an app's settings and namespaces, enable and disable it."""
    APPS_DELETE = "apps.delete"
    """Delete an app."""
    KEYS_READ = "keys.read"
    """See the names, permissions and last uses of keys; never a secret."""
    KEYS_WRITE = "keys.write"
    """Create, rotate and revoke keys."""
    TOKENS_REVOKE = "tokens.revoke"
    """Revoke a client's token, or block a clientId."""
    WEBHOOKS_READ = "webhooks.read"
    """See endpoints and what was delivered to them."""
    WEBHOOKS_WRITE = "webhooks.write"
    """Create, change and delete endpoints; deliver again."""
    PUSH_READ = "push.read"
    """See devices, push rules, what was pushed, and which credentials there are; never a secret."""
    PUSH_SEND = "push.send"
    """Register and remove devices, and push to them."""
    PUSH_WRITE = "push.write"
    """Set the credentials for push services, and push rules."""
    CHANNELS_READ = "channels.read"
    """See channels, their history and who is present."""
    CHANNELS_PUBLISH = "channels.publish"
    """Publish as an administrator."""
    CONNECTIONS_READ = "connections.read"
    """See connections."""
    CONNECTIONS_DISCONNECT = "connections.disconnect"
    """End connections."""
    USAGE_READ = "usage.read"
    """See usage, quotas and analytics."""
    AUDIT_READ = "audit.read"
    """See what administrators of the team did."""
    TEAMS_CREATE = "teams.create"
    """Create teams; where sign-up is open everybody may."""
    ACCOUNTS_MANAGE = "accounts.manage"
    """See all accounts; enable, disable and delete them."""
    PLANS_WRITE = "plans.write"
    """Create, change and delete plans, and put apps on one."""
    SERVER_READ = "server.read"
    """See all teams, and the audit log of the whole server."""


PERMISSIONS: dict[Permission, Role | None] = {
    Permission.TEAM_READ: Role.VIEWER,
    Permission.TEAM_UPDATE: Role.ADMIN,
    Permission.TEAM_DELETE: Role.OWNER,
    Permission.MEMBERS_INVITE: Role.ADMIN,
    Permission.MEMBERS_UPDATE: Role.ADMIN,
    Permission.MEMBERS_REMOVE: Role.ADMIN,
    Permission.APPS_READ: Role.VIEWER,
    Permission.APPS_CREATE: Role.ADMIN,
    Permission.APPS_UPDATE: Role.DEVELOPER,
    Permission.APPS_DELETE: Role.ADMIN,
    Permission.KEYS_READ: Role.DEVELOPER,
    Permission.KEYS_WRITE: Role.DEVELOPER,
    Permission.TOKENS_REVOKE: Role.DEVELOPER,
    Permission.WEBHOOKS_READ: Role.VIEWER,
    Permission.WEBHOOKS_WRITE: Role.DEVELOPER,
    Permission.PUSH_READ: Role.VIEWER,
    Permission.PUSH_SEND: Role.DEVELOPER,
    Permission.PUSH_WRITE: Role.DEVELOPER,
    Permission.CHANNELS_READ: Role.VIEWER,
    Permission.CHANNELS_PUBLISH: Role.DEVELOPER,
    Permission.CONNECTIONS_READ: Role.VIEWER,
    Permission.CONNECTIONS_DISCONNECT: Role.DEVELOPER,
    Permission.USAGE_READ: Role.VIEWER,
    Permission.AUDIT_READ: Role.ADMIN,
    Permission.TEAMS_CREATE: None,
    Permission.ACCOUNTS_MANAGE: None,
    Permission.PLANS_WRITE: None,
    Permission.SERVER_READ: None,
}
"""The least role that each permission needs in the team; ``None``: it is the operator's alone."""
